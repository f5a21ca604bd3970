"""Products of 8-bit integers, for GPUs without fp8: Turing (7.5) and Ampere.

Activations are quantised when they come in, per row. Sums are exact 32-bit integers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .linear import LinearOperands, ScaledFormat, scale_columns, scale_of
from .rows import quantise_rows

MIN_ROWS = 32
"""cuBLAS refuses products of 16 rows or fewer; zeros are added below this many."""


class Int8Format(ScaledFormat):
    """int8 weights times int8 activations through PyTorch."""

    name = "int8"

    def matmul(self, layer: LinearOperands, x: Tensor) -> Tensor:
        """Returns the product in the compute dtype, fp16 by way of bf16.

        Without the weights' scale a result may exceed fp16's range, so bf16 holds it until then.
        """
        numbers, scale = quantise_rows(x, torch.int8)
        numbers = numbers.flatten(0, -2)
        rows = numbers.shape[0]
        numbers = F.pad(numbers, (0, 0, 0, max(0, MIN_ROWS - rows)))
        sums = torch.ops.aten._int_mm(numbers, layer.weight.t())[:rows]
        dtype = torch.float32 if layer.compute_dtype == torch.float32 else torch.bfloat16
        # Written in 16 bit at once: an fp32 copy of the sums would be the layer's largest tensor.
        out = torch.empty(sums.shape, dtype=dtype, device=x.device)
        torch.mul(sums, scale.flatten(0, -2), out=out)
        out = scale_columns(out.view(*x.shape[:-1], -1), scale_of(layer), layer.bias)
        return out.to(layer.compute_dtype)


Int8Linear = Callable[[Tensor, Tensor, Tensor, Tensor | None, torch.dtype], Tensor]
"""(x, weight, weight scale, bias, result dtype) -> x W^T + bias, as comfy-kitchen's int8_linear."""


@dataclass(frozen=True)
class KitchenInt8Format(ScaledFormat):
    """int8 weights times int8 activations through comfy-kitchen, scales and bias fused in."""

    int8_linear: Int8Linear
    name = "int8 (comfy-kitchen)"

    def matmul(self, layer: LinearOperands, x: Tensor) -> Tensor:
        """Returns the product in the compute dtype."""
        out = self.int8_linear(x, layer.weight, scale_of(layer), layer.bias, layer.compute_dtype)
        # The kernel takes NaN for -128 and infinity for the largest finite number, which would
        # hide a broken token: its first output feature tells of it.
        out[..., 0] += 0 * torch.linalg.vector_norm(x, float("inf"), dim=-1)
        return out
