"""ComfyUI's own text encoders with linear layers whose weights stay as small as GGUF holds them."""

from collections.abc import Mapping
from typing import Any

import comfy.ops
import comfy.sd
import torch
from torch import Tensor

from ....wan_model.errors import CheckpointError
from ....wan_model.quant import PLAIN, StoredWeight, WeightFormat
from ..model.comfy_linear import ComfyLinear


class _Packed(ComfyLinear):
    """One of those layers."""


class PackedClip(comfy.sd.CLIP):
    """A text encoder with such layers, of which other nodes save numbers instead of codes."""

    def clone(self, *args: Any, **kwargs: Any) -> "PackedClip":
        """Returns a copy that shares the weights."""
        copy = super().clone(*args, **kwargs)
        copy.__class__ = PackedClip
        return copy  # pyright: ignore[reportReturnType]

    def get_sd(self) -> dict[str, Tensor]:
        """Returns the tensors that a file holds."""
        return self._with_numbers(super().get_sd())

    def state_dict_for_saving(self) -> dict[str, Tensor]:
        """Returns the same, with patches: what newer versions of ComfyUI save."""
        return self._with_numbers(super().state_dict_for_saving())  # pyright: ignore

    def _with_numbers(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        for path, layer in self.cond_stage_model.named_modules():
            if isinstance(layer, _Packed):
                state[f"{path}.weight"] = layer.stored().dequantize(torch.float16)
        return state


def packed_operations(formats: Mapping[str, WeightFormat]) -> type:
    """Returns layers for ComfyUI to build a text encoder of.

    Args:
        formats: of the linear layers' weights that are not plain numbers, by their names in the
            state dict that the encoder will load.
    """

    class PackedLinear(_Packed):
        def __init__(
            self,
            in_features: int,
            out_features: int,
            bias: bool = True,
            device: Any = None,
            dtype: Any = None,  # noqa: ARG002 - core's call
        ) -> None:
            # Nothing is allocated that the file's tensors replace. umT5 computes in fp32.
            with torch.device("meta"):
                super().__init__(in_features, out_features, compute_dtype=torch.float32)
            if not bias:
                self.bias = None
            self._final_device = torch.device(device or "cpu")

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).to(x.dtype)

        def _load_from_state_dict(
            self, state_dict: Mapping[str, Tensor], prefix: str, *others: Any
        ) -> None:
            missing: list[str] = others[2]
            name = f"{prefix}weight"
            weight = state_dict.get(name)
            if weight is None:
                missing.append(name)
                return
            self._take(StoredWeight(formats.get(name) or PLAIN[weight.dtype], weight), name)

        def _take(self, stored: StoredWeight, name: str) -> None:
            shape = stored.format.shape(tuple(stored.weight.shape))
            if shape != (self.out_features, self.in_features):
                raise CheckpointError(
                    f"The text encoder has a weight of a wrong shape. Got {list(shape)} for "
                    f"{name}, need [{self.out_features}, {self.in_features}]. Choose another "
                    "version of it."
                )
            self.put(stored.to(self._final_device))

    class PackedOperations(comfy.ops.manual_cast):
        Linear = PackedLinear

    return PackedOperations
