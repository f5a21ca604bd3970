"""Products of fp8 numbers (e4m3): activations are quantised when they come in, per row.

Source of the kernels' constraints: `aten/src/ATen/native/cuda/{ScaledBlas.cpp, RowwiseScaledMM.cu}`
of PyTorch. Row-wise scales give bf16 results only. Their CUTLASS kernel is not built on Windows;
there only Hopper has them, through cuBLAS.

Shape legend: M tokens, O output features, I input features.
"""

import torch
from torch import Tensor

from .linear import LinearOperands, ScaledFormat, scale_columns, scale_of
from .rows import FP8, quantise_rows

FAST_ACCUMULATION = True
"""Sums in the tensor cores' own registers. Without it Hopper loses the advantage over bf16."""


class Fp8Format(ScaledFormat):
    """fp8 weights times fp8 activations; the kernel applies both scales."""

    name = "fp8"

    def matmul(self, layer: LinearOperands, x: Tensor) -> Tensor:
        """Returns the product in the compute dtype, by way of bf16."""
        numbers, scale = quantise_rows(x, FP8)
        weight_scale = scale_of(layer).reshape(-1, 1).expand(layer.weight.shape[0], 1)
        out = torch.ops.aten._scaled_mm(
            numbers.flatten(0, -2),
            layer.weight.t(),
            scale_a=scale.flatten(0, -2),
            scale_b=weight_scale.t().contiguous(),
            bias=None if layer.bias is None else layer.bias.to(torch.bfloat16),
            out_dtype=torch.bfloat16,
            use_fast_accum=FAST_ACCUMULATION,
        )
        return out.view(*x.shape[:-1], -1).to(layer.compute_dtype)


class UnitScaleFp8Format(ScaledFormat):
    """As `Fp8Format`, for kernels that take no row-wise scales: they are applied to the result.

    Sums of unscaled products stay below 448 * 448 * I, far inside the range of bf16. Rounding them
    to bf16 before the scales adds 2e-3 to an error of 3e-2.
    """

    name = "fp8, scaled afterwards"

    def matmul(self, layer: LinearOperands, x: Tensor) -> Tensor:
        """Returns the product in the compute dtype, by way of bf16."""
        numbers, scale = quantise_rows(x, FP8)
        one = torch.ones((), device=x.device)
        out = torch.ops.aten._scaled_mm(
            numbers.flatten(0, -2),
            layer.weight.t(),
            scale_a=one,
            scale_b=one,
            out_dtype=torch.bfloat16,
            use_fast_accum=FAST_ACCUMULATION,
        )
        out = out.view(*x.shape[:-1], -1).mul_(scale)
        return scale_columns(out, scale_of(layer), layer.bias).to(layer.compute_dtype)
