"""Patches that are merged into a quantized weight's expanded copy, not into its codes.

The copy is made once for each visit of the block, in 16 bit, so that no effect is lost in rounding
to few bits. Plain LoRAs are operands instead (`low_rank`), so this is for the rest of what LoRA
files hold, DoRA, LoHa and OFT, of any node. Whole differences of stock nodes are merged into codes,
but for those of GGUF, which cannot be changed: they are as large as the model, and would travel
again and again.
"""

from typing import Any

import comfy.lora
from comfy.weight_adapter import WeightAdapterBase
from torch import Tensor, nn

from ....wan_model.quant import Linear
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
        return with_patches(dense, *self.dense_patches)


def with_patches(weight: Tensor, key: str, patches: list[Any]) -> Tensor:
    """Returns a weight with patches merged into it, as ComfyUI does.

    Args:
        weight: dequantized, fp32; it may be written into.
        key: of the weight.
        patches: of any node.
    """
    # Only patches that are differences of whole models look at what the weight was.
    original = weight.clone() if any(_of_a_model(what) for _, what, *_ in patches) else weight
    originals = {key: [(original, None)]}
    return comfy.lora.calculate_weight(patches, weight, key, original_weights=originals)


def split_dense(module: nn.Module, merged: Patches) -> tuple[Patches, Patches]:
    """Returns patches that are merged into stored weights, and those merged into copies."""
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
    exact = any(isinstance(what, WeightAdapterBase) for _, what, *_ in patches)
    return exact or layer.format.requantize is None


def _of_a_model(what: Any) -> bool:
    return isinstance(what, tuple) and bool(what) and what[0] == "model_as_lora"
