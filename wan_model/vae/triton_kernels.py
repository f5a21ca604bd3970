"""A VAE's pointwise work as Triton kernels: one pass over memory each, computed in fp32.

Importing this needs Triton. A program works on a tile of pixels x channels.

A kernel is compiled when it is first used, in a quarter of a second. So that a VAE needs few, what
differs between videos and layers is no constant of theirs: the number of pixels and channels, and
to how many of them something is added, which is none where there is nothing to add.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor, nn

from ..triton_launch import launch
from .pointwise import Past

TILE = 4096
"""Values of a tile."""

COLUMNS, FEW_COLUMNS = 128, 16
"""Channels of a tile where they do not depend on each other; few for an image's own."""

MOST_ROWS = 64
"""Pixels of a tile: what is few channels wide is read value by value, which takes registers."""


@triton.jit(do_not_specialize=["pixels"])
def _norm_silu(
    x, bias, gamma, older, newer, window, pixels, channels, biased,
    rows: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """The result takes the place of the older frame, once that has been copied to the window."""
    row = (tl.program_id(0) * rows + tl.arange(0, rows)).to(tl.int64)[:, None]
    channel = tl.arange(0, block)[None, :]
    inside = (row < pixels) & (channel < channels)
    at = row * channels + channel
    v = tl.load(x + at, inside, 0.0).to(tl.float32)
    v += tl.load(bias + channel, channel < biased, 0.0).to(tl.float32)
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
def _tile(pixels, channels, rows: tl.constexpr, block: tl.constexpr):
    """Returns a program's pixels and channels, and which of them exist."""
    columns = tl.cdiv(channels, block)  # neighbours in memory are worked on at about the same time
    row = (tl.program_id(0) // columns * rows + tl.arange(0, rows))[:, None]
    channel = (tl.program_id(0) % columns * block + tl.arange(0, block))[None, :]
    return row, channel, (row < pixels) & (channel < channels)


@triton.jit(do_not_specialize=["pixels", "added"])
def _add(
    y, bias, x, pixels, channels, added,
    rows: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row, channel, inside = _tile(pixels, channels, rows, block)
    at = row.to(tl.int64) * channels + channel
    v = tl.load(y + at, inside, 0.0).to(tl.float32)
    v += tl.load(bias + channel, channel < channels, 0.0).to(tl.float32)
    v += tl.load(x + at, inside & (row < added), 0.0).to(tl.float32)
    tl.store(y + at, v.to(y.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["pixels", "height", "width"])
def _interleave(
    y, bias, x, out, pixels, channels, height, width,
    rows: tl.constexpr, block: tl.constexpr, per_channel: tl.constexpr,
):  # fmt: skip
    """The result's pixel (i, j) is phase (i % 2, j % 2) at ((i + 1) // 2, (j + 1) // 2) of `y`.

    `per_channel` is how many channels `x` has for each of the result: 0 without `x`, 1 or 2.
    """
    row, channel, inside = _tile(pixels, channels, rows, block)
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
        channels = x.shape[-1]
        # A program needs all channels of its pixels.
        pixels, programs, tile = _tiles(x, 1 << (channels - 1).bit_length())
        window = x.new_empty(*x.shape[:-1], 3 * channels)
        given, biased = (norm.gamma, 0) if bias is None else (bias, channels)
        launch(
            _norm_silu,
            (programs,),
            x,
            given,
            norm.gamma,
            *past,
            window,
            pixels,
            channels,
            biased,
            **tile,
        )
        return window, past[0]

    def add(self, y: Tensor, bias: Tensor, x: Tensor | None) -> Tensor:
        """See `Pointwise`."""
        pixels, programs, tile = _tiles(y)
        given, added = (y, 0) if x is None else (x, pixels)
        launch(_add, (programs,), y, bias, given, pixels, y.shape[-1], added, **tile)
        return y

    def interleave(self, y: Tensor, bias: Tensor, x: Tensor | None) -> Tensor:
        """See `Pointwise`."""
        batch, height, width = y.shape[0], 2 * y.shape[1] - 2, 2 * y.shape[2] - 2
        channels = y.shape[-1] // 4
        out = y.new_empty(batch, height, width, channels)
        pixels, programs, tile = _tiles(out)
        given, per_channel = (y, 0) if x is None else (x, x.shape[-1] // channels)
        launch(
            _interleave,
            (programs,),
            y,
            bias,
            given,
            out,
            pixels,
            channels,
            height,
            width,
            **tile,
            per_channel=per_channel,
        )
        return out


def _tiles(x: Tensor, block: int = 0) -> tuple[int, int, dict[str, Any]]:
    """Returns the pixels of x (B, H, W, C), the number of programs, and the size of a tile.

    Args:
        x: all of it is covered.
        block: channels of a tile; 0: as many as suit the width.
    """
    channels = x.shape[-1]
    pixels = x.numel() // channels
    block = block or (COLUMNS if channels > FEW_COLUMNS else FEW_COLUMNS)
    rows = min(max(1, TILE // block), MOST_ROWS)
    programs = -(-pixels // rows) * -(-channels // block)
    return pixels, programs, {"rows": rows, "block": block}
