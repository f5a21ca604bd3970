"""What a LoRA file does to a weight, as ComfyUI's patches."""

from typing import Any

import torch
from comfy.weight_adapter import LoRAAdapter, WeightAdapterBase
from torch import Tensor

from ....wan_model.lora import Addition, Change, Difference, Factors, LowRank, Pair


class FileChange(WeightAdapterBase):
    """A change that ComfyUI's own classes do not have, or compute otherwise than its trainers."""

    name = "wanduet"

    def __init__(self, loaded_keys: set[str], weights: tuple[Change]) -> None:
        """Takes a change; ComfyUI makes copies by these two arguments."""
        self.loaded_keys = loaded_keys
        self.weights = weights  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def change(self) -> Change:
        """What is done."""
        return self.weights[0]

    @property
    def pair(self) -> Pair | None:
        """The same as two thin matrices, if it is."""
        return self.change.pair if isinstance(self.change, Addition) else None

    @property
    def factors(self) -> Factors | None:
        """The same as a Kronecker product, if it is one."""
        return self.change.factors if isinstance(self.change, Addition) else None

    @property
    def adds(self) -> bool:
        """Whether what it adds does not depend on the weight."""
        return isinstance(self.change, Addition)

    def calculate_weight(
        self,
        weight: Tensor,
        key: str,  # noqa: ARG002 - ComfyUI's call
        strength: float,
        strength_model: float,  # noqa: ARG002
        offset: Any,  # noqa: ARG002 - the weight is that part of it
        function: Any,
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight: Any = None,  # noqa: ARG002
    ) -> Tensor:
        """Changes a weight in its place."""
        dense = weight.to(intermediate_dtype)
        added = self.change.applied(dense, strength) - dense
        return weight.add_(function(added))


def as_patch(change: Change, shape: tuple[int, ...]) -> Any:
    """Returns a change of a tensor of some shape in ComfyUI's own classes, if those do the same."""
    if isinstance(change, LowRank) and change.mid is None and change.shape == shape:
        alpha = change.scale * len(change.down)
        return LoRAAdapter(set(), (change.up, change.down, alpha, None, None, None))
    # Matrices may be quantized, and then are not to be merged by ComfyUI's code.
    if isinstance(change, Difference) and (change.scale, change.shape) == (1, shape[:1]):
        return ("diff", (change.tensor,))
    return FileChange(set(), (change,))
