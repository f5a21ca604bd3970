"""Guidance by a negative prompt as one Triton kernel: each token read once and written once.

Importing this needs Triton.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .text_guidance import SMALLEST_NORM, GuidanceSettings


def guide(positive: Tensor, negative: Tensor, alpha: Tensor, settings: GuidanceSettings) -> Tensor:
    """A `Guide`, for contiguous tensors; others are copied."""
    result, negative = positive.contiguous(), negative.contiguous()
    batch, length, width = result.shape
    sizes: dict[str, Any] = {"width": width, "block": triton.next_power_of_2(width)}
    _guide[(length, batch)](
        result, negative, alpha, settings.scale, settings.tau, SMALLEST_NORM, length, **sizes
    )
    return result


# What differs between videos and settings is in do_not_specialize: nothing is compiled for it.
@triton.jit(do_not_specialize=["scale", "tau", "length"])
def _guide(
    positive, negative, alphas, scale, tau, smallest, length,
    width: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    token, sample = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    column = tl.arange(0, block)
    inside = column < width
    place = (sample * length + token) * width + column
    alpha = tl.load(alphas + sample)
    p = tl.load(positive + place, inside, 0.0).to(tl.float32)
    n = tl.load(negative + place, inside, 0.0).to(tl.float32)
    moved = p * scale - n * (scale - 1)
    norm = tl.sum(tl.abs(moved), 0)
    most = tau * tl.sum(tl.abs(p), 0)
    moved *= tl.where(norm > most, most / (norm + smallest), 1.0)
    result = moved * alpha + p * (1 - alpha)
    tl.store(positive + place, result.to(positive.dtype.element_ty), inside)
