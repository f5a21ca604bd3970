"""Triton kernels that prepare q, k and v for attention in fp8: two passes where PyTorch takes many.

Shape legend: B batch, L tokens, H heads, D head width, a power of two. All tensors are contiguous.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

STATISTICS_TOKENS = 512
QUANTIZE_TOKENS = 128
"""Of one program."""

TILE_TOKENS = 32
"""What a program holds of them at a time while it adds them up."""

WARPS = 8


def statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns mean, least and greatest of x (B, L, H, D) over the tokens, fp32 (B, 1, H, D)."""
    batch, length, heads, width = x.shape
    blocks = triton.cdiv(length, STATISTICS_TOKENS)
    shape = (batch, blocks, heads, width)
    sums, low, high = (torch.empty(shape, dtype=torch.float32, device=x.device) for _ in range(3))
    _statistics[(blocks, heads, batch)](
        x,
        sums,
        low,
        high,
        length,
        heads,
        width=width,
        block=STATISTICS_TOKENS,
        tile=TILE_TOKENS,
    )
    return sums.sum(1, keepdim=True) / length, low.amin(1, keepdim=True), high.amax(1, keepdim=True)


def quantize(x: Tensor, mean: Tensor, factor: Tensor, rotation: Tensor | None) -> Tensor:
    """Returns factor * (x - mean) @ rotation in e4m3.

    Args:
        x: bf16 (B, L, H, D).
        mean: fp32 (B, 1, H, D).
        factor: fp32 (B, 1, H).
        rotation: bf16 (D, D) of 1 and -1; none if there is none.

    Returns:
        e4m3 (B, L, H, D).
    """
    batch, length, heads, width = x.shape
    out = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    _quantize[(triton.cdiv(length, QUANTIZE_TOKENS), heads, batch)](
        x,
        out,
        mean,
        factor,
        x if rotation is None else rotation,
        length,
        heads,
        width=width,
        block=QUANTIZE_TOKENS,
        rotated=rotation is not None,
        num_warps=WARPS,
    )
    return out


@triton.jit
def _places(first, length, heads, width: tl.constexpr, tile: tl.constexpr):
    """Returns where `tile` tokens of this program's head are, and which of them exist."""
    head, sample = tl.program_id(1), tl.program_id(2)
    token = first + tl.arange(0, tile)
    row = (sample.to(tl.int64) * length + token) * heads + head
    return row[:, None] * width + tl.arange(0, width)[None, :], (token < length)[:, None]


# Nothing is compiled for another length of video, or number of heads.
@triton.jit(do_not_specialize=["length", "heads"])
def _statistics(
    x,
    sums,
    low,
    high,
    length,
    heads,
    width: tl.constexpr,
    block: tl.constexpr,
    tile: tl.constexpr,
):
    total = tl.zeros((tile, width), tl.float32)
    least = tl.full((tile, width), float("inf"), tl.float32)
    most = tl.full((tile, width), float("-inf"), tl.float32)
    for start in range(0, block, tile):
        place, exists = _places(tl.program_id(0) * block + start, length, heads, width, tile)
        values = tl.load(x + place, exists, other=0.0).to(tl.float32)
        total += values
        least = tl.minimum(least, tl.where(exists, values, float("inf")))
        most = tl.maximum(most, tl.where(exists, values, float("-inf")))
    row = (tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)) * heads + tl.program_id(1)
    target = row * width + tl.arange(0, width)
    tl.store(sums + target, tl.sum(total, 0))
    tl.store(low + target, tl.min(least, 0))
    tl.store(high + target, tl.max(most, 0))


@triton.jit(do_not_specialize=["length", "heads"])
def _quantize(
    x,
    out,
    mean,
    factor,
    rotation,
    length,
    heads,
    width: tl.constexpr,
    block: tl.constexpr,
    rotated: tl.constexpr,
):
    first = tl.program_id(0) * block
    place, exists = _places(first, length, heads, width, block)
    side = tl.arange(0, width)
    head = tl.program_id(2) * heads + tl.program_id(1)
    values = tl.load(x + place, exists, other=0.0).to(tl.float32)
    values -= tl.load(mean + head * width + side)[None, :]
    if rotated:
        signs = tl.load(rotation + side[:, None] * width + side[None, :])
        values = tl.dot(values.to(signs.dtype), signs)
    values *= tl.load(factor + head)
    tl.store(out + place, values.to(out.dtype.element_ty), exists)
