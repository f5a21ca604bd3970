"""fp8 weights with one scale per row: how they are shipped, and training that knows of it."""

import torch
from torch import Tensor, nn

from wan_model.dit import WanDiT
from wan_model.quant import Linear, PlainFormat, Stored, scale_weight

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max
SMALLEST_SCALE = 1e-12


def to_fp8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a weight (O, I) as fp8 numbers and their fp32 scales (O, 1)."""
    scale = weight.float().abs().amax(dim=1, keepdim=True).div(LARGEST).clamp(min=SMALLEST_SCALE)
    return (weight.float() / scale).to(FP8), scale


class RoundedToFp8(PlainFormat):
    """Multiplies with the weight that fp8 will leave of it; gradients pass as if unrounded."""

    name = "fp8 in training"

    def dense(self, stored: Stored, dtype: torch.dtype) -> Tensor:
        """Returns the rounded weight in `dtype`."""
        weight = stored.weight
        with torch.no_grad():
            error = scale_weight(*to_fp8(weight)) - weight
        return (weight + error).to(dtype)


def fp8_layers(dit: WanDiT) -> dict[str, Linear]:
    """Returns the layers whose weights are shipped as fp8: the linears of the blocks."""
    modules: dict[str, nn.Module] = dict(dit.named_modules())
    return {
        name: module
        for name, module in modules.items()
        if name.startswith("blocks.") and isinstance(module, Linear)
    }
