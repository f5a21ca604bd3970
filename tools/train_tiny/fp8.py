"""fp8 weights with one scale per row: how they are shipped, and training that knows of it."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wan_model.dit import WanDiT
from wan_model.quant import Linear, LinearOperands, scale_weight

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max
SMALLEST_SCALE = 1e-12


def to_fp8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a weight (O, I) as fp8 codes and their fp32 scales (O, 1)."""
    scale = weight.float().abs().amax(dim=1, keepdim=True).div(LARGEST).clamp(min=SMALLEST_SCALE)
    return (weight.float() / scale).to(FP8), scale


@dataclass(frozen=True)
class RoundedToFp8:
    """A matmul with the weight that fp8 will leave; gradients pass as if it were not rounded."""

    name: str = "rounded to fp8"

    def __call__(self, layer: LinearOperands, x: Tensor) -> Tensor:
        """See `quant.Matmul`."""
        dtype = layer.compute_dtype
        bias = None if layer.bias is None else layer.bias.to(dtype)
        return F.linear(x.to(dtype), rounded(layer.weight).to(dtype), bias)


def rounded(weight: Tensor) -> Tensor:
    """Returns the weight (O, I) that fp8 will leave, in the weight's dtype."""
    with torch.no_grad():
        error = scale_weight(*to_fp8(weight)) - weight
    return weight + error


def fp8_layers(dit: WanDiT) -> dict[str, Linear]:
    """Returns the layers whose weights are shipped as fp8: the linears of the blocks."""
    modules: dict[str, nn.Module] = dict(dit.named_modules())
    return {
        name: module
        for name, module in modules.items()
        if name.startswith("blocks.") and isinstance(module, Linear)
    }
