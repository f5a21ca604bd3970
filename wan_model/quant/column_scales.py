"""Columns of a matmul's result times the scales of a weight's rows, by Triton where that is right.

In PyTorch these are two passes over the result, of which the first multiplies 16 bits by 32 slowly:
a tenth of a forward pass of fp8 weights that are multiplied in 16 bit (benchmarks/RESULTS.md).
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from ..kernel_trial import triton_kernels_if_right

Scaling = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(result (..., O), scale, bias (O,) or None) -> result * scale + bias, in its place."""

TOLERANCE = 1e-2
"""Most rms error of a trial: PyTorch rounds to bf16 twice, which costs 0.004."""

TRIAL = (9, 1296)
"""Rows and columns: no whole block of the kernel, but a width like those of models, for which
nothing is compiled again."""


def scale_columns(out: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """Returns out * scale + bias in the place of `out`.

    Args:
        out: (..., O), any float dtype.
        scale: fp32, one number or (O, 1). Multiplied in fp32.
        bias: (O,) or None.
    """
    return _best_for(out)(out, scale, bias)


def in_two_passes(out: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """A `Scaling` by PyTorch: any device, with gradients."""
    # It needs an axis: a number without one would be rounded to the dtype of `out` first.
    out.mul_(scale.reshape(-1))
    return out if bias is None else out.add_(bias.to(out.dtype))


def _best_for(out: Tensor) -> Scaling:
    # The compiler fuses PyTorch's passes with what is around them.
    plain = not out.is_cuda or torch.compiler.is_compiling() or not out.is_contiguous()
    if plain or out.requires_grad or out.device.index != torch.cuda.current_device():
        return in_two_passes
    return _tried(out.device, out.dtype)


@cache
def _tried(device: torch.device, dtype: torch.dtype) -> Scaling:
    return triton_kernels_if_right(
        make=_triton,
        plain=in_two_passes,
        error=lambda fast: trial_error(fast, device, dtype),
        tolerance=TOLERANCE,
        what="Scales of columns",
    )


def _triton() -> Scaling:
    from .scaling_kernels import scale_in_place

    return scale_in_place


def trial_error(scaling: Scaling, device: torch.device | str, dtype: torch.dtype) -> float:
    """Returns the greatest rms error relative to PyTorch's, with one scale and with many."""
    rows, width = TRIAL
    x = torch.arange(rows * width, device=device).mul(0.7).sin().view(rows, width).to(dtype)
    bias = x[0].clone()
    errors = []
    for scale in (bias[1:2].float(), x[1].float().clone().unsqueeze(1)):
        for given in (None, bias):
            exact = in_two_passes(x.float().clone(), scale, given)
            found = scaling(x.clone(), scale, given).float()
            errors.append(((found - exact).norm() / exact.norm()).item())
    return max(errors)
