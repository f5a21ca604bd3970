"""Patches that are merged into a quantized weight for each call, not into its codes.

Two kinds. Codes of GGUF cannot be changed; such a weight is dequantized when it is used anyway, so
there is a copy of full precision to merge into. And what 'Wan 2.2 Load LoRA Pair' adds is never
rounded to few bits. LoRAs are operands instead (`low_rank`), so this is for the rest: DoRA, OFT,
whole differences, and on GGUF LoKr and LoHa of stock nodes.
"""

from typing import Any

import comfy.lora
from torch import Tensor, nn

from ....wan_model.quant import Linear
from .file_change import FileChange
from .low_rank import Patches, path_of, quantized_layer


class DensePatched(Linear):
    """A linear layer that may have such patches.

    Attributes:
        dense_patches: the key of its weight and what is merged; None if that is nothing.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dense_patches: tuple[str, list[Any]] | None = None

    def patched_dense(self, dense: Tensor) -> Tensor:
        """Returns the dequantized weight, fp32 (O, I), with its patches."""
        assert self.dense_patches is not None
        key, patches = self.dense_patches
        # Only patches that are differences of whole models look at what the weight was.
        original = dense.clone() if any(_of_a_model(what) for _, what, *_ in patches) else dense
        original_weights = {key: [(original, None)]}
        return comfy.lora.calculate_weight(patches, dense, key, original_weights=original_weights)


def split_dense(module: nn.Module, merged: Patches) -> tuple[Patches, Patches]:
    """Returns patches that are merged into stored weights, and those merged for each call."""
    dense = {
        key: patches for key, patches in merged.items() if _keeps_its_codes(module, key, patches)
    }
    return {key: patches for key, patches in merged.items() if key not in dense}, dense


def place_dense(module: nn.Module, dense: Patches) -> None:
    """Gives the layers of a transformer these patches by key, and no others."""
    by_path = {path_of(key): (key, list(patches)) for key, patches in dense.items()}
    for path, layer in module.named_modules():
        if isinstance(layer, DensePatched):
            layer.dense_patches = by_path.get(path)


def _keeps_its_codes(module: nn.Module, key: str, patches: list[Any]) -> bool:
    layer = quantized_layer(module, key)
    if not isinstance(layer, DensePatched):
        return False
    exact = any(isinstance(what, FileChange) for _, what, *_ in patches)
    return exact or layer.format.requantize is None


def _of_a_model(what: Any) -> bool:
    return isinstance(what, tuple) and bool(what) and what[0] == "model_as_lora"
