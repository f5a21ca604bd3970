"""Triton kernels that dequantize the most used block types of GGUF in one pass each.

PyTorch's code, `gguf_packing`, takes many, and says what the bits mean.

Importing this needs Triton. A program works on a few blocks; a number of the result is computed
from the bytes that it needs, of which neighbours share most.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

NUMBERS = 4096
"""Of the result, by one program."""


@triton.jit
def _q8_0(packed, halves, out, numbers, tile: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    inside = at < numbers
    block, i = at // 32, at % 32
    code = tl.load(packed + block * 34 + 2 + i, inside, 0).to(tl.int8, bitcast=True)
    d = tl.load(halves + block * 17, inside, 0.0).to(tl.float32)
    tl.store(out + at, (code.to(tl.float32) * d).to(out.dtype.element_ty), inside)


@triton.jit
def _sixes(packed, halves, block, group, inside, bytes_: tl.constexpr):
    """Returns scale and offset of groups, of Q4_K and Q5_K."""
    at = packed + block * bytes_ + 4 + group % 4
    first = tl.load(at, inside, 0).to(tl.int32)
    second = tl.load(at + 4, inside, 0).to(tl.int32)
    last = tl.load(at + 8, inside, 0).to(tl.int32)
    is_first = group < 4
    scale = tl.where(is_first, first & 63, last & 15 | (first >> 2) & 48)
    offset = tl.where(is_first, second & 63, last >> 4 | (second >> 2) & 48)
    at = halves + block * (bytes_ // 2)
    d = tl.load(at, inside, 0.0).to(tl.float32)
    dmin = tl.load(at + 1, inside, 0.0).to(tl.float32)
    return d * scale.to(tl.float32), dmin * offset.to(tl.float32)


@triton.jit
def _q4_k(packed, halves, out, numbers, tile: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    inside = at < numbers
    block, i = at // 256, (at % 256).to(tl.int32)
    group = i // 32
    byte = tl.load(packed + block * 144 + 16 + group // 2 * 32 + i % 32, inside, 0).to(tl.int32)
    code = byte >> group % 2 * 4 & 15
    scale, offset = _sixes(packed, halves, block, group, inside, 144)
    value = code.to(tl.float32) * scale - offset
    tl.store(out + at, value.to(out.dtype.element_ty), inside)


@triton.jit
def _q5_k(packed, halves, out, numbers, tile: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    inside = at < numbers
    block, i = at // 256, (at % 256).to(tl.int32)
    group = i // 32
    byte = tl.load(packed + block * 176 + 48 + group // 2 * 32 + i % 32, inside, 0).to(tl.int32)
    fifth = tl.load(packed + block * 176 + 16 + i % 32, inside, 0).to(tl.int32)
    code = (byte >> group % 2 * 4 & 15) | (fifth >> group & 1) << 4
    scale, offset = _sixes(packed, halves, block, group, inside, 176)
    value = code.to(tl.float32) * scale - offset
    tl.store(out + at, value.to(out.dtype.element_ty), inside)


@triton.jit
def _q6_k(packed, halves, out, numbers, tile: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    inside = at < numbers
    block, i = at // 256, (at % 256).to(tl.int32)
    half, place = i // 128, i % 128
    start = packed + block * 210
    low = tl.load(start + half * 64 + place % 64, inside, 0).to(tl.int32)
    high = tl.load(start + 128 + half * 32 + place % 32, inside, 0).to(tl.int32)
    code = (low >> place // 64 * 4 & 15) | (high >> place // 32 * 2 & 3) << 4
    scale = tl.load(start + 192 + i // 16, inside, 0).to(tl.int8, bitcast=True).to(tl.float32)
    d = tl.load(halves + block * 105 + 104, inside, 0.0).to(tl.float32)
    value = (code - 32).to(tl.float32) * (d * scale)
    tl.store(out + at, value.to(out.dtype.element_ty), inside)


KERNELS: dict[str, Any] = {"Q8_0": _q8_0, "Q6_K": _q6_k, "Q5_K": _q5_k, "Q4_K": _q4_k}
"""By format."""


def dequantize(name: str, packed: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Returns a weight of a shape in a float dtype; on the current CUDA device.

    Args:
        name: of its format, a key of `KERNELS`.
        packed: uint8, contiguous.
        shape: of the weight.
        dtype: of the result.
    """
    out = torch.empty(shape, dtype=dtype, device=packed.device)
    grid = (triton.cdiv(out.numel(), NUMBERS),)
    KERNELS[name][grid](packed, packed.view(torch.float16), out, out.numel(), tile=NUMBERS)
    return out
