"""A VAE's pointwise work as Triton kernels: one pass over memory each, computed in fp32.

Importing this needs Triton. A program works on a tile of pixels x channels.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor, nn

from .pointwise import Past

TILE = 4096
"""Values of a tile."""


@triton.jit
def _norm_silu(
    x, bias, gamma, older, newer, window, pixels,
    channels: tl.constexpr, block: tl.constexpr, rows: tl.constexpr, has_bias: tl.constexpr,
):  # fmt: skip
    """The result takes the place of the older frame, once that has been copied to the window."""
    row = (tl.program_id(0) * rows + tl.arange(0, rows)).to(tl.int64)[:, None]
    channel = tl.arange(0, block)[None, :]
    inside = (row < pixels) & (channel < channels)
    at = row * channels + channel
    v = tl.load(x + at, inside, 0.0).to(tl.float32)
    if has_bias:
        v += tl.load(bias + channel, channel < channels, 0.0).to(tl.float32)
    v *= tl.rsqrt(tl.sum(v * v, 1) / channels + 1e-24)[:, None]
    v *= tl.load(gamma + channel, channel < channels, 0.0).to(tl.float32)
    v *= tl.sigmoid(v)
    result = v.to(window.dtype.element_ty)
    window += row * (3 * channels) + channel
    tl.store(window, tl.load(older + at, inside, 0.0), inside)
    tl.store(window + channels, tl.load(newer + at, inside, 0.0), inside)
    tl.store(window + 2 * channels, result, inside)
    tl.store(older + at, result, inside)


@triton.jit
def _add(
    y, bias, x, pixels,
    channels: tl.constexpr, block: tl.constexpr, rows: tl.constexpr, has_x: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) * rows + tl.arange(0, rows)).to(tl.int64)[:, None]
    channel = tl.arange(0, block)[None, :]
    inside = (row < pixels) & (channel < channels)
    at = row * channels + channel
    v = tl.load(y + at, inside, 0.0).to(tl.float32)
    v += tl.load(bias + channel, channel < channels, 0.0).to(tl.float32)
    if has_x:
        v += tl.load(x + at, inside, 0.0).to(tl.float32)
    tl.store(y + at, v.to(y.dtype.element_ty), inside)


@triton.jit
def _interleave(
    y, bias, x, out, pixels, height, width,
    channels: tl.constexpr, block: tl.constexpr, rows: tl.constexpr, per_channel: tl.constexpr,
):  # fmt: skip
    """The result's pixel (i, j) is phase (i % 2, j % 2) at ((i + 1) // 2, (j + 1) // 2) of `y`.

    `per_channel` is how many channels `x` has for each of the result: 0 without `x`, 1 or 2.
    """
    row = (tl.program_id(0) * rows + tl.arange(0, rows))[:, None]
    channel = tl.arange(0, block)[None, :]
    inside = (row < pixels) & (channel < channels)
    j = row % width
    i = row // width % height
    frame = row // width // height
    of_y = (frame * (height // 2 + 1) + (i + 1) // 2) * (width // 2 + 1) + (j + 1) // 2
    phase = i % 2 * 2 + j % 2
    at = (of_y.to(tl.int64) * 4 + phase) * channels + channel
    v = tl.load(y + at, inside, 0.0).to(tl.float32)
    v += tl.load(bias + channel, channel < channels, 0.0).to(tl.float32)
    if per_channel:
        of_x = (frame * (height // 2) + i // 2) * (width // 2) + j // 2
        of_channel = channel * per_channel + i % 2 * (per_channel - 1)
        at = of_x.to(tl.int64) * (channels * per_channel) + of_channel
        v += tl.load(x + at, inside, 0.0).to(tl.float32)
    at = row.to(tl.int64) * channels + channel
    tl.store(out + at, v.to(out.dtype.element_ty), inside)


class TritonPointwise:
    """See `Pointwise`. Without gradients; on the current CUDA device."""

    def norm_silu(
        self, x: Tensor, bias: Tensor | None, norm: nn.Module, past: Past
    ) -> tuple[Tensor, Tensor]:
        """See `Pointwise`."""
        pixels, grid, constants = _launch(x, has_bias=bias is not None)
        window = x.new_empty(*x.shape[:-1], 3 * x.shape[-1])
        given = norm.gamma if bias is None else bias
        _norm_silu[grid](x, given, norm.gamma, *past, window, pixels, **constants)
        return window, past[0]

    def add(self, y: Tensor, bias: Tensor, x: Tensor | None) -> Tensor:
        """See `Pointwise`."""
        pixels, grid, constants = _launch(y, has_x=x is not None)
        _add[grid](y, bias, y if x is None else x, pixels, **constants)
        return y

    def interleave(self, y: Tensor, bias: Tensor, x: Tensor | None) -> Tensor:
        """See `Pointwise`."""
        batch, height, width = y.shape[0], 2 * y.shape[1] - 2, 2 * y.shape[2] - 2
        out = y.new_empty(batch, height, width, y.shape[-1] // 4)
        per_channel = 0 if x is None else x.shape[-1] // out.shape[-1]
        pixels, grid, constants = _launch(out, per_channel=per_channel)
        given = y if x is None else x
        _interleave[grid](y, bias, given, out, pixels, height, width, **constants)
        return out


def _launch(x: Tensor, **flags: int) -> tuple[int, tuple[int], dict[str, Any]]:
    """Returns the pixels of x (B, H, W, C), the number of programs, and a kernel's constants."""
    channels = x.shape[-1]
    pixels = x.numel() // channels
    block = 1 << (channels - 1).bit_length()
    rows = max(1, TILE // block)
    constants = {"channels": channels, "block": block, "rows": rows, **flags}
    return pixels, (-(-pixels // rows),), constants
