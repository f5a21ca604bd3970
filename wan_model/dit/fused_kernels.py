"""A block's elementwise work as Triton kernels: one pass over memory each, computed in fp32.

Importing this needs Triton. A program works on one token, whose values all fit in registers: sums
over a token are sums over the program.

Shape legend: B batch, L tokens of a run, C values of a token, U distinct timesteps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..quant import QuantizedRows
from ..quant.packing import FP8, LARGEST
from ..triton_launch import launch
from .modulation import Modulation
from .rope import Rotation

SMALLEST_SCALE = torch.finfo(torch.float32).tiny

MODULATED, AFFINE = 1, 2
"""What follows a layer norm."""

WIDE = 8192
"""Values of a token from which on a program gets more warps."""


@dataclass(frozen=True)
class Wanted:
    """In which forms the next layers take their tokens."""

    values: torch.dtype | None
    """Of the tokens as they are; None if nobody takes them."""
    codes: bool
    """Whether somebody takes them in e4m3, with a scale for each."""


@dataclass(frozen=True)
class Tokens:
    """What the next layers are given, in the forms that were wanted."""

    values: Tensor | None
    """(B, L, C)."""
    rows: QuantizedRows | None
    """e4m3 (B, L, C)."""

    @classmethod
    def empty(cls, shape: Sequence[int], wanted: Wanted, device: torch.device) -> "Tokens":
        """Returns uninitialised tokens (B, L, C)."""
        values = rows = None
        if wanted.values is not None:
            values = torch.empty(shape, dtype=wanted.values, device=device)
        if wanted.codes:
            codes = torch.empty(shape, dtype=FP8, device=device)
            scale = torch.empty((*shape[:-1], 1), dtype=torch.float32, device=device)
            rows = QuantizedRows(codes, scale)
        return cls(values, rows)

    def pointers(self, unused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns values, codes and scales; `unused` in the place of what is not wanted."""
        values = unused if self.values is None else self.values
        if self.rows is None:
            return values, unused, unused
        return values, self.rows.codes, self.rows.scale


def norm(
    x: Tensor,
    eps: float,
    wanted: Wanted,
    by: Modulation | tuple[Tensor, Tensor],
    branch: Tensor | None = None,
    gate: Modulation | None = None,
) -> Tokens:
    """Adds a branch to the residual stream, and returns its layer norm.

    Args:
        x: residual stream (B, L, C); with a branch, the sum takes its place.
        eps: of the norm.
        wanted: forms of the result.
        by: what the norm is multiplied with and what is added then: a modulation, or fp32 weight
            and bias (C,).
        branch: (B, L, C), contiguous.
        gate: whose gate the branch is multiplied by, if any.
    """
    tokens = Tokens.empty(x.shape, wanted, x.device)
    if isinstance(by, Modulation):
        modulation, weight, bias, kind = by, x, x, MODULATED
    else:
        modulation, (weight, bias), kind = gate, by, AFFINE
    _launch(x, branch, gate, modulation, tokens, (weight, bias), eps, kind)
    return tokens


def add(x: Tensor, branch: Tensor, gate: Modulation) -> Tensor:
    """Returns x (B, L, C) + gate * branch in the place of x."""
    _launch(x, branch, gate, gate, Tokens(None, None), (x, x), 0.0, 0)
    return x


def _launch(
    x: Tensor,
    branch: Tensor | None,
    gate: Modulation | None,
    modulation: Modulation | None,
    tokens: Tokens,
    affine: tuple[Tensor, Tensor],
    eps: float,
    kind: int,
) -> None:
    batch, length, width = x.shape
    values, codes, scales = tokens.pointers(x)
    rows = x if modulation is None else modulation.rows
    index = x if modulation is None else modulation.index
    gates = rows if gate is None else gate.rows
    steps = (0, 0, 0, 0)
    if modulation is not None:
        each = index.stride(1) if index.shape[1] > 1 else 0
        steps = (rows.stride(0) // width, gates.stride(0) // width, index.stride(0), each)
    launch(
        _add_and_norm, (length, batch),
        x, x if branch is None else branch, rows, gates, index, *affine,
        values, codes, scales, eps, SMALLEST_SCALE, x.stride(0) // width, *steps, length,
        width=width, block=triton.next_power_of_2(width),
        added=branch is not None, gated=gate is not None, modulated=modulation is not None,
        kind=kind, has_values=tokens.values is not None, has_codes=tokens.rows is not None,
        largest=LARGEST[FP8], num_warps=_warps(width),
    )  # fmt: skip


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, out: Tensor, angles: Rotation | None = None
) -> Tensor:
    """Writes x / rms(x) * weight, rotated if angles are given, to `out` and returns that.

    Args:
        x: (B, L, C), contiguous.
        weight: fp32 (C,).
        eps: of the norm.
        out: (B, L, H, D) with H * D = C, contiguous but for its first axis. May be x.
        angles: of these tokens.
    """
    batch, length, width = x.shape
    pairs = out.shape[-1] // 2
    cos, sin = (weight, weight) if angles is None else (angles.cos, angles.sin)
    launch(
        _rms_norm, (length, batch),
        x, weight, cos, sin, out, eps, out.stride(0) // width, length,
        width=width, block=triton.next_power_of_2(width // 2), pairs=pairs,
        rotated=angles is not None, num_warps=_warps(width),
    )  # fmt: skip
    return out


def gelu(x: Tensor, wanted: Wanted) -> Tokens:
    """Returns GELU (tanh) of x (B, L, C); values take the place of x."""
    rows = Tokens.empty(x.shape, Wanted(None, wanted.codes), x.device).rows
    tokens = Tokens(None if wanted.values is None else x, rows)
    _activate_rows(x, tokens, with_gelu=True)
    return tokens


def quantize(x: Tensor) -> QuantizedRows:
    """Returns x (B, L, C), contiguous, in e4m3."""
    tokens = Tokens.empty(x.shape, Wanted(None, codes=True), x.device)
    assert tokens.rows is not None
    _activate_rows(x, tokens, with_gelu=False)
    return tokens.rows


def _activate_rows(x: Tensor, tokens: Tokens, *, with_gelu: bool) -> None:
    width = x.shape[-1]
    launch(
        _activate, (x.numel() // width,),
        x, *tokens.pointers(x), SMALLEST_SCALE,
        width=width, block=triton.next_power_of_2(width), with_gelu=with_gelu,
        has_values=tokens.values is not None, has_codes=tokens.rows is not None,
        largest=LARGEST[FP8], num_warps=_warps(width),
    )  # fmt: skip


def _warps(width: int) -> int:
    return 16 if width > WIDE else 4


# What differs between videos is in do_not_specialize: nothing is compiled for its values. Strides
# count tokens, so that Triton knows places to be multiples of the width and moves 16 bytes at once.
@triton.jit(
    do_not_specialize=[
        *("x_sample", "row_step", "gate_step", "index_sample", "index_token", "length"),
    ]
)
def _add_and_norm(
    x, branch, rows, gates, index, weight, bias, values, codes, scales, eps, smallest,
    x_sample, row_step, gate_step, index_sample, index_token, length,
    width: tl.constexpr, block: tl.constexpr, added: tl.constexpr, gated: tl.constexpr,
    modulated: tl.constexpr, kind: tl.constexpr, has_values: tl.constexpr, has_codes: tl.constexpr,
    largest: tl.constexpr,
):  # fmt: skip
    """Rows of a modulation are shift, scale and gate of one timestep."""
    token, sample = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    # Four at once in every type: 16 bytes of fp32, and no exchange between threads for others.
    column = tl.max_contiguous(tl.arange(0, block), 4)
    inside = column < width
    row = sample * length + token
    x += (sample * x_sample + token) * width + column
    v = tl.load(x, inside, 0.0).to(tl.float32)
    timestep = token * 0
    if modulated:
        timestep = tl.load(index + sample * index_sample + token * index_token)
    if added:
        more = tl.load(branch + row * width + column, inside, 0.0).to(tl.float32)
        if gated:
            more *= tl.load(gates + (timestep * gate_step + 2) * width + column, inside, 0.0)
        total = (v + more).to(x.dtype.element_ty)
        tl.store(x, total, inside)
        v = total.to(tl.float32)
    if kind:
        v = tl.where(inside, v - tl.sum(v, 0) / width, 0.0)
        v *= tl.rsqrt(tl.sum(v * v, 0) / width + eps)
        if kind == 1:
            rows += timestep * row_step * width + column
            v = v * (1 + tl.load(rows + width, inside, 0.0)) + tl.load(rows, inside, 0.0)
        else:
            v = v * tl.load(weight + column, inside, 0.0) + tl.load(bias + column, inside, 0.0)
        if has_values:
            tl.store(values + row * width + column, v.to(values.dtype.element_ty), inside)
        if has_codes:
            _quantize(v, codes + row * width + column, scales + row, inside, smallest, largest)


@triton.jit
def _quantize(v, codes, scale_at, inside, smallest, largest: tl.constexpr):
    """Values outside are zero. A maximum passes NaN over, so infinity takes its place there."""
    scale = tl.maximum(tl.max(tl.where(v == v, tl.abs(v), float("inf")), 0) / largest, smallest)
    tl.store(codes, (v * (1 / scale)).to(codes.dtype.element_ty), inside)
    tl.store(scale_at, scale)


@triton.jit(do_not_specialize=["out_sample", "length"])
def _rms_norm(
    x, weight, cos, sin, out, eps, out_sample, length,
    width: tl.constexpr, block: tl.constexpr, pairs: tl.constexpr, rotated: tl.constexpr,
):  # fmt: skip
    token, sample = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    column = tl.arange(0, 2 * block)
    inside = column < width
    v = tl.load(x + (sample * length + token) * width + column, inside, 0.0).to(tl.float32)
    v *= tl.rsqrt(tl.sum(v * v, 0) / width + eps)
    v *= tl.load(weight + column, inside, 0.0)
    if rotated:
        pair = tl.arange(0, block)
        angle = token * pairs + pair % pairs
        exists = pair < width // 2
        c, s = tl.load(cos + angle, exists, 0.0), tl.load(sin + angle, exists, 0.0)
        even, odd = tl.split(tl.reshape(v, (block, 2)))
        v = tl.interleave(even * c - odd * s, even * s + odd * c)
    out += (sample * out_sample + token) * width + column
    tl.store(out, v.to(out.dtype.element_ty), inside)


@triton.jit
def _activate(
    x, values, codes, scales, smallest,
    width: tl.constexpr, block: tl.constexpr, with_gelu: tl.constexpr, has_values: tl.constexpr,
    has_codes: tl.constexpr, largest: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block)
    inside = column < width
    place = row * width + column
    v = tl.load(x + place, inside, 0.0).to(tl.float32)
    if with_gelu:
        # (1 + tanh(u)) / 2 is sigmoid(2 u).
        v *= tl.sigmoid(1.5957691216057308 * (v + 0.044715 * v * v * v))
    if has_values:
        tl.store(values + place, v.to(values.dtype.element_ty), inside)
    if has_codes:
        _quantize(v, codes + place, scales + row, inside, smallest, largest)
