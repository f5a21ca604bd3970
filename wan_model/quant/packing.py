"""How codes and scales lie in memory: per-row scales, 4-bit floats, exponents, tiles of scales.

A code is what a quantized weight is stored as; weight = code * scale. nvfp4: two 4-bit floats
(e2m1) in a byte, the first in its upper half; an 8-bit float (e4m3) scales 16 of them, and one fp32
number the whole tensor. mxfp8: 8-bit floats (e4m3); a power of two, as the byte of its exponent,
scales 32 of them. Scales of blocks lie in the order in which cuBLAS wants them.

Sources: OCP Microscaling Formats 1.0 (e2m1, e8m0); cuBLAS documentation, "1D Block Scaling Factors
Layout"; ComfyUI's files, `comfy_quant` notes "nvfp4" and "mxfp8".

Shape legend: M rows (any leading axes), O output features, I input features, N blocks of a row.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

FP8, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2

LARGEST = {FP8: 448.0, E5M2: 57344.0, torch.int8: 127.0}
"""The largest code of a dtype; symmetric for integers."""

STEPS = {FP8: (3, -6), E5M2: (2, -14)}
"""Bits of the mantissa, and the smallest exponent of normal numbers."""

NVFP4_BLOCK = 16
MXFP8_BLOCK = 32

NVFP4_CANDIDATES = (1.0, 0.9, 1.5)
"""1.5 makes a block's largest number 4 and the next smaller one 3, finer than 6 and 4 (the idea of
"Four Over Six", 2025); 0.9 cuts the largest off. Normal numbers: an rms error of 0.085 instead of
0.095; 14 candidates reach 0.082."""

LARGEST_E2M1 = 6.0
SMALLEST_E4M3 = 2.0**-9
E2M1_PER_E4M3 = 64.0
"""An e2m1 number is this many times the e4m3 number with the same sign, exponent and first bit."""

EXPONENT_BIAS = 127
"""Of e8m0, and of fp32."""

NOT_FINITE = 255
"""The exponent of what has infinity or NaN in it."""

ALL_BUT_ROUNDING = 1 - 2**-16
"""A weight that comes from the largest code may be a little above it."""

TILE_ROWS, TILE_COLUMNS = 128, 4
"""Scales come in tiles of this many; missing ones at the edges are zero."""


def quantize_rows(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns x as codes of `dtype` and fp32 scales, so that x is about codes * scale.

    Rounds to nearest, in fp32. A row with infinity or NaN gets a scale that is not finite, so a
    matmul with it is not finite either and can be found; a row of zeros stays zero.

    Args:
        x: (..., I), fp32 or a float dtype of 16 bits.
        dtype: a key of `LARGEST`.

    Returns:
        codes (..., I), contiguous, and scales (..., 1).
    """
    largest = torch.linalg.vector_norm(x, float("inf"), dim=-1, keepdim=True, dtype=torch.float32)
    scale = (largest / LARGEST[dtype]).clamp_min_(torch.finfo(torch.float32).tiny)
    if not dtype.is_floating_point:
        return (x / scale).round_().to(dtype, memory_format=torch.contiguous_format), scale
    # Rounded as it is written: an fp32 copy would double what activations cost to quantize.
    codes = torch.empty(x.shape, dtype=dtype, device=x.device)
    return torch.div(x, scale, out=codes), scale


def scale_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """Returns weight (O, I) * scale in fp32.

    Args:
        weight: any storage dtype.
        scale: one number, (O, 1) per row, (O, N, 1) per block of I / N consecutive inputs, or
            (R, N, 1) per tile of O / R rows and I / N inputs.
    """
    values = weight.to(torch.float32, copy=True)
    if scale.ndim == 3:
        rows, blocks, _ = scale.shape
        tiles = values.view(rows, len(values) // rows, blocks, -1)
        tiles.mul_(scale.unsqueeze(1))
        return values
    return values.mul_(scale)


def unscale_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """Returns weight (O, I) / scale in fp32: the inverse of `scale_weight`, before rounding."""
    return scale_weight(weight, scale.float().reciprocal())


def round_at_random(values: Tensor, dtype: torch.dtype, chance: Tensor) -> Tensor:
    """Returns codes of 8 bits whose mean over many draws is the value; too large ones are cut off.

    Args:
        values: fp32, in units of codes.
        dtype: int8 or an 8-bit float.
        chance: random, of [0, 1), shape of `values`.
    """
    largest = LARGEST[dtype]
    if dtype == torch.int8:
        return (values + chance).floor_().clamp_(-largest, largest).to(dtype)
    mantissa, smallest = STEPS[dtype]
    exponent = torch.frexp(values).exponent.sub_(1).clamp_(min=smallest)
    step = torch.ldexp(torch.ones_like(values), exponent - mantissa)
    codes = (values / step).add_(chance).floor_().mul_(step)
    return codes.clamp_(-largest, largest).to(dtype)


def roomier_scales(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns scales with which no code of a weight (O, I) is too large, else those given.

    Codes of floats are the same at twice the scale, so theirs grow by powers of two.

    Args:
        weight: of any float dtype.
        scale: as in `scale_weight`.
        dtype: a key of `LARGEST`.
    """
    if scale.numel() == 1:
        largest = weight.abs().amax().reshape(scale.shape)
    elif scale.ndim == 3:
        tiles = weight.unflatten(1, (scale.shape[1], -1)).unflatten(0, (len(scale), -1))
        largest = tiles.abs().amax((1, 3)).unsqueeze(-1)
    else:
        largest = weight.abs().amax(-1, keepdim=True)
    needed = (largest.float() / LARGEST[dtype]).clamp_min_(torch.finfo(torch.float32).tiny)
    factor = needed / scale.float() * ALL_BUT_ROUNDING
    if dtype.is_floating_point:
        factor = factor.log2().ceil().exp2()
    grown = torch.where(scale == 0, needed, scale.float() * factor.clamp_min(1))
    return grown.to(scale.dtype)


def roomier_nvfp4(weight: Tensor, scales: Tensor, tensor_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Returns scales and tensor's scale with which no code of a weight (O, I) is too large.

    Blocks whose codes fit keep their scales, but for those below e4m3's range where the tensor's
    scale grows, by a power of two.
    """
    blocks = weight.float().unflatten(1, (-1, NVFP4_BLOCK))
    needed = blocks.abs().amax(-1) / LARGEST_E2M1
    factor = needed.amax() / (tensor_scale * LARGEST[FP8]) * ALL_BUT_ROUNDING
    factor = factor.log2().ceil().exp2().clamp_min_(1)
    grown = tensor_scale * factor
    old = unswizzle(scales, *needed.shape).float() / factor
    # Rounded up: a step of e4m3 is at most an eighth.
    new = (needed / grown * (1 + 1 / 16)).clamp_(max=LARGEST[FP8]).to(FP8).float()
    cut_off = needed * ALL_BUT_ROUNDING > old * grown
    return swizzle(torch.where(cut_off, new, old)).to(scales.dtype), grown


def swizzle(scales: Tensor) -> Tensor:
    """Returns scales (O, N) in tiles, shape (O, N) rounded up to whole tiles.

    A tile is 512 consecutive scales: row r and column c of it are number 16 (r % 32) + 4 (r // 32)
    + c.
    """
    rows, blocks = scales.shape
    padded = F.pad(scales, (0, -blocks % TILE_COLUMNS, 0, -rows % TILE_ROWS))
    tiles = padded.view(-1, 4, 32, padded.shape[1] // TILE_COLUMNS, TILE_COLUMNS)
    return tiles.permute(0, 3, 2, 1, 4).reshape(padded.shape)


def unswizzle(scales: Tensor, rows: int, blocks: int) -> Tensor:
    """Returns the first (O, N) = (rows, blocks) scales of what `swizzle` gave, row by row."""
    tiles = scales.view(-1, scales.shape[1] // TILE_COLUMNS, 32, 4, TILE_COLUMNS)
    return tiles.permute(0, 3, 2, 1, 4).reshape(scales.shape)[:rows, :blocks]


def swizzled_shape(rows: int, blocks: int) -> tuple[int, int]:
    """Returns the shape of scales (O, N) = (rows, blocks) in tiles."""
    return rows + -rows % TILE_ROWS, blocks + -blocks % TILE_COLUMNS


def encode_e2m1(values: Tensor, chance: Tensor | float = 0.5) -> Tensor:
    """Returns fp32 values (O, I) as bytes (O, I / 2) of two 4-bit floats; the largest is 6.

    Args:
        values: to round. NaN becomes 6.
        chance: 0.5 to round to nearest, ties to even; or per value a random number of [0, 1), to
            round up or down at random, with the value itself as the mean.
    """
    size = values.abs()
    step = torch.ones_like(size).masked_fill_(size < 2, 0.5).masked_fill_(size >= 4, 2.0)
    size.div_(step)
    size = size.round_() if isinstance(chance, float) else size.add_(chance).floor_()
    size.mul_(step).clamp_(max=LARGEST_E2M1)
    codes = (size / E2M1_PER_E4M3).to(FP8).view(torch.uint8) >> 2 & 7
    codes |= values.signbit().to(torch.uint8) << 3
    return codes[:, ::2] << 4 | codes[:, 1::2]


def e2m1_as_e4m3(codes: Tensor) -> Tensor:
    """Returns bytes (O, I / 2) of two 4-bit floats as e4m3 codes (O, I), 1 / 64 of them."""
    first = codes & 0x80 | (codes & 0x70) >> 2
    second = (codes & 0x08) << 4 | (codes & 0x07) << 2
    return torch.stack((first, second), -1).flatten(1).view(FP8)


def nvfp4_scales(block_scales: Tensor, tensor_scale: Tensor, rows: int, columns: int) -> Tensor:
    """Returns what the 4-bit floats of each block are multiplied with, fp32 (O, N, 1)."""
    scales = unswizzle(block_scales, rows, columns // NVFP4_BLOCK).float()
    return scales.mul_(tensor_scale).unsqueeze(-1)


def mxfp8_scales(exponents: Tensor, rows: int, columns: int) -> Tensor:
    """Returns what the codes of each block are multiplied with, fp32 (O, N, 1).

    The exponent 0 would be 2^-127; it marks blocks of zeros.
    """
    exponents = unswizzle(exponents, rows, columns // MXFP8_BLOCK)
    return (exponents.to(torch.int32) << 23).view(torch.float32).unsqueeze(-1)


def quantize_nvfp4(
    x: Tensor, candidates: tuple[float, ...] = NVFP4_CANDIDATES
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns x (O, I) as bytes (O, I / 2), scales e4m3 in tiles, and the tensor's scale fp32.

    Every block gets the scale, of a few, that leaves the least squared error. A tensor with
    infinity or NaN gets a tensor's scale that is not finite.

    Args:
        x: of any float dtype.
        candidates: scales to try, in units of the one that makes a block's largest number 6.
    """
    blocks = x.float().unflatten(1, (-1, NVFP4_BLOCK))
    fitting = blocks.abs().amax(-1, keepdim=True) / LARGEST_E2M1
    tensor_scale = fitting.amax() * max(candidates) / LARGEST[FP8]
    tensor_scale = tensor_scale.clamp_min_(torch.finfo(torch.float32).tiny)
    codes, scales, errors = _nvfp4_blocks(blocks, fitting * candidates[0], tensor_scale)
    for candidate in candidates[1:]:
        tried = _nvfp4_blocks(blocks, fitting * candidate, tensor_scale)
        better = tried[2] < errors
        codes = torch.where(better, tried[0], codes)
        scales = torch.where(better, tried[1], scales)
        errors = torch.where(better, tried[2], errors)
    return codes.flatten(1), swizzle(scales.squeeze(-1)).view(FP8), tensor_scale


def _nvfp4_blocks(
    blocks: Tensor, wanted: Tensor, tensor_scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns blocks (O, N, 16) at wanted scales (O, N, 1).

    Returns:
        codes uint8 (O, N, 8), e4m3 scales as uint8 (O, N, 1), squared errors (O, N, 1).
    """
    scales = (wanted / tensor_scale).clamp_(SMALLEST_E4M3, LARGEST[FP8]).to(FP8)
    factor = scales.float() * tensor_scale
    codes = encode_e2m1((blocks / factor).flatten(1))
    rounded = e2m1_as_e4m3(codes).float().view(blocks.shape).mul_(factor * E2M1_PER_E4M3)
    errors = rounded.sub_(blocks).square_().sum(-1, keepdim=True)
    return codes.view(*blocks.shape[:2], -1), scales.view(torch.uint8), errors


def unpack_int4(packed: Tensor, *, signed: bool = True) -> Tensor:
    """Returns the codes (O, I), int8, of bytes (O, I / 2), the first in the lower half.

    Args:
        packed: int8.
        signed: whether codes are -8 to 7, or else 0 to 15.
    """
    both = packed.view(torch.uint8)
    codes = torch.stack((both & 15, both >> 4), -1).flatten(1).view(torch.int8)
    return (codes ^ 8).sub_(8) if signed else codes


def quantize_mxfp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns x (O, I) as e4m3 codes, and the exponents of their scales in tiles, uint8.

    A scale is the smallest power of two with which no code of its block is too large.
    """
    blocks = x.float().unflatten(1, (-1, MXFP8_BLOCK))
    largest = blocks.abs().amax(-1, keepdim=True)
    fraction, exponent = torch.frexp(largest / LARGEST[FP8])
    exponent = (exponent - (fraction == 0.5).to(torch.int32)).clamp_(1 - EXPONENT_BIAS, 127)
    codes = torch.ldexp(blocks, -exponent).flatten(1).to(FP8)
    exponents = (exponent + EXPONENT_BIAS).masked_fill_(largest == 0, 0)
    exponents = exponents.masked_fill_(~largest.isfinite(), NOT_FINITE).to(torch.uint8)
    return codes, swizzle(exponents.squeeze(-1))
