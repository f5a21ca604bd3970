"""Triton kernels that expand the block types of GGUF in one pass: to floats, or to codes of 8 bits.

PyTorch's code, `gguf_packing`, takes many passes, and says what the bits mean.

Importing this needs Triton. A program works on a row, so that a row's scale is known before its
codes are written. Weights lie in it as groups, which share a scale: what a scale is made of is read
once for each.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gguf_formats import GgufFormat
from .gguf_packing import IQ4_VALUES
from .packing import LARGEST

SMALLEST_SCALE = torch.finfo(torch.float32).tiny

WIDE = 8192
"""Weights of a row from which on a program gets more warps."""

IQ4_LOW, IQ4_HIGH = (
    tl.constexpr(int.from_bytes(bytes(one & 255 for one in half), "little", signed=True))
    for half in (IQ4_VALUES[:8], IQ4_VALUES[8:])
)
"""The values of IQ4, eight bytes each."""


NUMBERS = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "IQ4_XS"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
)
"""The kernel knows a block type by its place here."""

SMALL_GROUP, GROUP = 16, 32
"""Weights that share a scale."""
SMALL_GROUPS = ("Q2_K", "Q3_K", "Q6_K")


@triton.jit
def _byte(at, inside):
    return tl.load(at, inside, 0).to(tl.int32)


@triton.jit
def _half(at, inside):
    return tl.load(at, inside, 0.0).to(tl.float32)


@triton.jit
def _iq4(code, low: tl.constexpr, high: tl.constexpr):
    """Returns what codes of 4 bits stand for: bytes of two numbers of 64 bits."""
    first = tl.full(code.shape, low, tl.int64)
    values = tl.where(code < 8, first, tl.full(code.shape, high, tl.int64))
    return (values >> (code % 8 * 8).to(tl.int64)).to(tl.int8).to(tl.float32)


@triton.jit
def _sixes(start, group, inside):
    """Returns scale and offset of groups of Q4_K and Q5_K, without d and dmin."""
    at = start + 4 + group % 4
    first, second, last = _byte(at, inside), _byte(at + 4, inside), _byte(at + 8, inside)
    scale = tl.where(group < 4, first & 63, last & 15 | (first >> 2) & 48)
    offset = tl.where(group < 4, second & 63, last >> 4 | (second >> 2) & 48)
    return scale.to(tl.float32), offset.to(tl.float32)


@triton.jit
def _small_block(
    start, halves, i, inside, kind: tl.constexpr, low: tl.constexpr, high: tl.constexpr
):
    """Returns number `i` of blocks of 32."""
    d = _half(halves, inside)
    if kind == 4:
        v = tl.load(start + 2 + i, inside, 0).to(tl.int8, bitcast=True).to(tl.float32) * d
    elif kind == 5:
        v = _iq4(_byte(start + 2 + i % 16, inside) >> i // 16 * 4 & 15, low, high) * d
    else:
        # Behind d there may be an offset, then four bytes of fifth bits.
        fifths: tl.constexpr = 2 + 2 * (kind % 2)
        code = _byte(start + fifths + 4 * (kind // 2) + i % 16, inside) >> i // 16 * 4 & 15
        if kind >= 2:
            code |= (_byte(start + fifths + i // 8, inside) >> i % 8 & 1) << 4
        if kind % 2 == 1:
            v = code.to(tl.float32) * d + _half(halves + 1, inside)
        else:
            v = (code - 8 * (1 + kind // 2)).to(tl.float32) * d
    return v


@triton.jit
def _large_block(
    start, halves, group, i, inside, kind: tl.constexpr, low: tl.constexpr, high: tl.constexpr
):
    """Returns number `i` of a group of blocks of 256."""
    if kind == 6:
        scale = _byte(start + 4 + group // 2, inside) >> group % 2 * 4 & 15
        scale |= (_byte(start + 2 + group // 4, inside) >> group % 4 * 2 & 3) << 4
        code = _byte(start + 8 + group * 16 + i % 16, inside) >> i // 16 * 4 & 15
        v = _iq4(code, low, high) * ((scale - 32).to(tl.float32) * _half(halves, inside))
    elif kind == 7:
        code = _two_bits(start + 16, group * 16 + i, inside)
        both = _byte(start + group, inside)
        scale = (both & 15).to(tl.float32) * _half(halves + 40, inside)
        v = code.to(tl.float32) * scale
        v -= (both >> 4).to(tl.float32) * _half(halves + 41, inside)
    elif kind == 8:
        n = group * 16 + i
        code = _two_bits(start + 32, n, inside)
        code |= (_byte(start + n % 32, inside) >> n // 32 & 1) << 2
        scale = _byte(start + 96 + group % 8, inside) >> group // 8 * 4 & 15
        scale |= (_byte(start + 104 + group % 4, inside) >> group // 4 * 2 & 3) << 4
        v = (code - 4).to(tl.float32) * ((scale - 32).to(tl.float32) * _half(halves + 54, inside))
    elif kind == 11:
        n = group * 16 + i
        half, place = n // 128, n % 128
        code = _byte(start + half * 64 + place % 64, inside) >> place // 64 * 4 & 15
        code |= (_byte(start + 128 + half * 32 + place % 32, inside) >> place // 32 * 2 & 3) << 4
        scale = tl.load(start + 192 + group, inside, 0).to(tl.int8, bitcast=True).to(tl.float32)
        v = (code - 32).to(tl.float32) * (_half(halves + 104, inside) * scale)
    else:
        codes_at: tl.constexpr = 16 if kind == 9 else 48
        code = _byte(start + codes_at + group // 2 * 32 + i, inside) >> group % 2 * 4 & 15
        if kind == 10:
            code |= (_byte(start + 16 + i, inside) >> group & 1) << 4
        scale, offset = _sixes(start, group, inside)
        v = code.to(tl.float32) * (scale * _half(halves, inside))
        v -= offset * _half(halves + 1, inside)
    return v


@triton.jit
def _two_bits(start, n, inside):
    """Returns number `n` of 256 of two bits, as Q2_K and Q3_K have them."""
    return _byte(start + n // 128 * 32 + n % 32, inside) >> n % 128 // 32 * 2 & 3


@triton.jit
def _expand(
    packed, halves, codes, scales, smallest,
    kind: tl.constexpr, block: tl.constexpr, block_bytes: tl.constexpr, group: tl.constexpr,
    groups: tl.constexpr, all_groups: tl.constexpr, largest: tl.constexpr, whole: tl.constexpr,
    low: tl.constexpr, high: tl.constexpr,
):  # fmt: skip
    """Writes a row; with `largest` as codes, which `whole` rounds to integers, and its scale."""
    row = tl.program_id(0).to(tl.int64)
    g, i = tl.arange(0, all_groups)[:, None], tl.arange(0, group)[None, :]
    inside = g < groups
    start = g * group // block * block_bytes
    row_bytes: tl.constexpr = groups * group // block * block_bytes
    packed += row * row_bytes + start
    halves += (row * row_bytes + start) // 2
    if block == 32:
        v = _small_block(packed, halves, i, inside, kind, low, high)
    else:
        v = _large_block(packed, halves, g % (block // group), i, inside, kind, low, high)
    if largest > 0:
        # A maximum passes NaN over, so infinity takes its place there.
        size = tl.where(v == v, tl.abs(v), float("inf"))
        scale = tl.maximum(tl.max(tl.max(tl.where(inside, size, 0.0), 1), 0) / largest, smallest)
        tl.store(scales + row, scale)
        v *= 1 / scale
        if whole:
            v = tl.floor(v + 0.5)
    at = codes + row * (groups * group) + g * group + i
    tl.store(at, v.to(codes.dtype.element_ty), inside)


def expand(kind: GgufFormat, packed: Tensor, codes: Tensor, scale: Tensor | None) -> None:
    """Writes a weight (O, I) to `codes`; on the current CUDA device.

    Args:
        kind: its format, one of `NUMBERS`.
        packed: uint8 (O, bytes of a row), contiguous.
        codes: (O, I), contiguous, of a float dtype; with a scale a key of `packing.LARGEST`.
        scale: fp32 (O, 1) for codes, which are rounded to nearest.
    """
    rows, width = codes.shape
    group = SMALL_GROUP if kind.name in SMALL_GROUPS else GROUP
    groups = width // group
    _expand[(rows,)](
        packed, packed.view(torch.float16), codes, packed if scale is None else scale,
        SMALLEST_SCALE, kind=NUMBERS.index(kind.name), block=kind.block,
        block_bytes=kind.block_bytes, group=group, groups=groups,
        all_groups=triton.next_power_of_2(groups),
        largest=0.0 if scale is None else LARGEST[codes.dtype],
        whole=not codes.dtype.is_floating_point,
        low=IQ4_LOW, high=IQ4_HIGH, num_warps=16 if width > WIDE else 8,
    )  # fmt: skip
