"""Row-wise quantisation: small numbers with one fp32 scale per row.

Rows of a weight are output features, rows of activations are tokens. In both an outlier then costs
precision in its own row only.

Shape legend: M rows (any leading axes), I input features.
"""

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn

LARGEST = {FP8: 448.0, torch.int8: 127.0}
"""What the largest number of a row becomes: the largest of the format, symmetric for integers."""


def quantise_rows(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns x as numbers of `dtype` and fp32 scales, so that x is about numbers * scale.

    Rounds to nearest, in fp32. A row with infinity or NaN gets a scale that is not finite, so a
    product with it is not finite either and can be found; a row of zeros stays zero.

    Args:
        x: (..., I), fp32 or a float dtype of 16 bits.
        dtype: a key of `LARGEST`.

    Returns:
        numbers (..., I), contiguous, and scales (..., 1).
    """
    largest = torch.linalg.vector_norm(x, float("inf"), dim=-1, keepdim=True, dtype=torch.float32)
    scale = (largest / LARGEST[dtype]).clamp_min_(torch.finfo(torch.float32).tiny)
    if not dtype.is_floating_point:
        return (x / scale).round_().to(dtype, memory_format=torch.contiguous_format), scale
    # Rounded as it is written: an fp32 copy would double what activations cost to quantise.
    numbers = torch.empty(x.shape, dtype=dtype, device=x.device)
    return torch.div(x, scale, out=numbers), scale


def scale_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """Returns weight (O, I) * scale in fp32.

    Args:
        weight: any storage dtype.
        scale: one number, (O, 1) per row, or (O, N, 1) per block of I / N consecutive inputs.
    """
    values = weight.to(torch.float32, copy=True)
    if scale.ndim == 3:
        rows, blocks, _ = scale.shape
        values.view(rows, blocks, -1).mul_(scale)
        return values
    return values.mul_(scale)


def unscale_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """Returns weight (O, I) / scale in fp32: the inverse of `scale_weight`, before rounding."""
    return scale_weight(weight, scale.float().reciprocal())
