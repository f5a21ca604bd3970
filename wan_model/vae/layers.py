"""Layers that both VAEs are made of. Parameter names are those of the official checkpoints.

A video streams through them frame by frame: each takes an iterator of frames and returns one, so
that asking the last layer for a frame pulls just as many through the others as it needs. A frame
goes all the way before the next one starts, and little is alive beside the windows (`cache`).

Shape legend: B batch, H height, W width (of the current resolution), C channels. A frame is
(B, H, W, C), contiguous: channels lie innermost, as the matrix units of GPUs want them.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .borders import Borders, convolve
from .feature_cache import FeatureCache

Frames = Iterator[Tensor]

PHASES = ((1, 0, 0), (0, 1, 1)), ((1, 1, 0), (0, 0, 1))
"""For even and odd rows of an upsampled image: the two rows of the small one that the kernel's
three taps meet. Even row 2i meets small rows i - 1, i and i; odd row 2i + 1 meets i, i and i + 1.
"""


class CausalConv3d(nn.Conv3d):
    """Convolution over three frames and over no or 3 x 3 pixels, with zeros around a frame."""

    bias: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_px: int) -> None:
        super().__init__(in_channels, out_channels, (3, kernel_px, kernel_px))

    def forward(self, frames: Frames, cache: FeatureCache) -> Frames:
        """Returns frames (B, H, W, out_channels) for as many (B, H, W, in_channels)."""
        return map(partial(self._frame, cache=cache), frames)

    def over(self, window: Tensor, borders: Borders) -> Tensor:
        """Returns the frame (B, H, W, out_channels) of a window (B, H, W, 3C), without the bias."""
        # Channels lie as in a window; a view, where weights are arranged for it.
        weight = self.weight.permute(0, 3, 4, 2, 1).flatten(3).permute(0, 3, 1, 2)
        if weight.shape[-1] == 1:
            return convolve(window, weight)
        return borders.right(convolve(window, weight, padding=1))

    def _frame(self, x: Tensor, cache: FeatureCache) -> Tensor:
        x = cache.borders.reach(x, self.kernel_size[1] // 2)
        return cache.pointwise.add(self.over(cache.append(self, x), cache.borders), self.bias, None)


def conv3x3x3(in_channels: int, out_channels: int) -> CausalConv3d:
    """Returns the causal convolution over 3 frames and 3 x 3 pixels."""
    return CausalConv3d(in_channels, out_channels, 3)


class Conv1x1x1(nn.Conv3d):
    """Convolution of each pixel on its own: a matmul."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, input: Tensor) -> Tensor:
        """Returns (B, out_channels, ...) for (B, in_channels, ...)."""
        return F.linear(input.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)


class RMSNorm(nn.Module):
    """Divides by the root mean square over channels and multiplies by gamma; computed in fp32."""

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * spatial_dims))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the shape and dtype of x (B, C, ...)."""
        gamma = self.gamma.flatten()
        return F.rms_norm(x.movedim(1, -1), gamma.shape, gamma, eps=1e-24).movedim(-1, 1)


class ResidualBlock(nn.Module):
    """Twice norm, SiLU and causal convolution, added to the input."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.residual = nn.ModuleDict(
            {
                "0": RMSNorm(in_channels, 3),
                "2": conv3x3x3(in_channels, out_channels),
                "3": RMSNorm(out_channels, 3),
                "6": conv3x3x3(out_channels, out_channels),
            }
        )
        keeps_width = in_channels == out_channels
        self.shortcut = nn.Identity() if keeps_width else Conv1x1x1(in_channels, out_channels)

    def forward(self, frames: Frames, cache: FeatureCache) -> Frames:
        """Returns frames (B, H, W, out_channels) for as many (B, H, W, in_channels)."""
        # A map, unlike a generator, lets go of a frame when it hands out the next.
        return map(partial(self._frame, cache=cache), frames)

    def _frame(self, x: Tensor, cache: FeatureCache) -> Tensor:
        norm_1, conv_1, norm_2, conv_2 = cast(
            tuple[RMSNorm, CausalConv3d, RMSNorm, CausalConv3d], self.residual.values()
        )
        borders = cache.borders
        x = borders.reach(x, 2)
        y = borders.reach(conv_1.over(cache.append_normed(conv_1, norm_1, x), borders), 1)
        window = cache.append_normed(conv_2, norm_2, y, conv_1.bias)
        del y  # makes room for the next
        y = conv_2.over(window, borders)
        shortcut = self.shortcut(borders.like(x, y).movedim(-1, 1)).movedim(1, -1)
        return cache.pointwise.add(y, conv_2.bias, shortcut)


class Head(nn.ModuleDict):
    """Norm, SiLU and the last causal convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__({"0": RMSNorm(in_channels, 3), "2": conv3x3x3(in_channels, out_channels)})

    def forward(self, frames: Frames, cache: FeatureCache) -> Frames:
        """Returns frames (B, H, W, out_channels) for as many (B, H, W, in_channels)."""
        return map(partial(self._frame, cache=cache), frames)

    def _frame(self, x: Tensor, cache: FeatureCache) -> Tensor:
        norm, conv = cast(tuple[RMSNorm, CausalConv3d], self.values())
        x = cache.borders.reach(x, 1)
        y = conv.over(cache.append_normed(conv, norm, x), cache.borders)
        return cache.pointwise.add(y, conv.bias, None)


class AttentionBlock(nn.Module):
    """Attention with one head among the pixels of a frame, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(channels, 2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, frames: Frames, cache: FeatureCache) -> Frames:
        """Returns frames like those it is given, (B, H, W, C)."""
        return map(partial(self._frame, borders=cache.borders), frames)

    def _frame(self, x: Tensor, borders: Borders) -> Tensor:
        pixels = self.norm(x.movedim(-1, 1)).movedim(1, -1).flatten(1, 2).unsqueeze(1)
        q, k, v = _per_pixel(self.to_qkv, pixels).chunk(3, dim=-1)
        k, v = borders.everywhere(k), borders.everywhere(v)
        h = _per_pixel(self.proj, F.scaled_dot_product_attention(q, k, v))
        return x + h.view_as(x)


class Middle(nn.ModuleList):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, channels: int) -> None:
        block, attention = ResidualBlock(channels, channels), AttentionBlock(channels)
        super().__init__([block, attention, ResidualBlock(channels, channels)])

    def forward(self, frames: Frames, cache: FeatureCache) -> Frames:
        """Returns frames like those it is given, (B, H, W, C)."""
        return through(self, frames, cache)


class Downsample(nn.Module):
    """Halves height and width, and with `time` pairs of frames after the first."""

    def __init__(self, channels: int, *, time: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": nn.Conv2d(channels, channels, 3, stride=2)})
        self.time_conv = CausalConv3d(channels, channels, 1) if time else None

    def forward(self, frames: Frames, cache: FeatureCache) -> Frames:
        """Returns frames (B, H/2, W/2, C) for (B, H, W, C); with `time` half as many."""
        small = map(partial(self._in_space, cache=cache), frames)
        return small if self.time_conv is None else self._in_time(self.time_conv, small, cache)

    def _in_space(self, x: Tensor, cache: FeatureCache) -> Tensor:
        conv = cast(nn.Conv2d, self.resample["1"])
        y = cache.borders.halved(cache.borders.reach(x, 1), conv.weight)
        return cache.pointwise.add(y, cast(Tensor, conv.bias), None)

    def _in_time(self, conv: CausalConv3d, frames: Frames, cache: FeatureCache) -> Frames:
        for index, frame in enumerate(frames):
            window = cache.append(conv, frame)
            if cache.first:
                yield frame
            elif index % 2:
                yield cache.pointwise.add(conv.over(window, cache.borders), conv.bias, None)


class Upsample(nn.Module):
    """Doubles height and width, and with `time` every frame after the first.

    Pixels are doubled and convolved with 3 x 3 taps. Since taps then meet the same small pixel,
    their weights are added up before: four convolutions with 2 x 2 taps of the small frame, one
    for each pixel of a doubled one, with 4/9 of the operations and no doubled frame.
    """

    def __init__(self, in_channels: int, out_channels: int, *, time: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": nn.Conv2d(in_channels, out_channels, 3, padding=1)})
        self.time_conv = CausalConv3d(in_channels, 2 * in_channels, 1) if time else None

    def forward(
        self, frames: Frames, cache: FeatureCache, shortcut: Tensor | None = None
    ) -> Frames:
        """Returns frames (B, 2H, 2W, C_out) for (B, H, W, C_in); with `time` twice as many.

        Args:
            frames: (B, H, W, C_in) each.
            cache: of the pass.
            shortcut: added to each result, see `Pointwise.interleave`.
        """
        frames = self._in_time(frames, cache)
        return map(partial(self._in_space, cache=cache, shortcut=shortcut), frames)

    def _in_time(self, frames: Frames, cache: FeatureCache) -> Frames:
        if self.time_conv is None or cache.first:
            return frames
        return (half for both in self.time_conv(frames, cache) for half in both.chunk(2, dim=-1))

    def _in_space(self, x: Tensor, cache: FeatureCache, shortcut: Tensor | None) -> Tensor:
        conv = cast(nn.Conv2d, self.resample["1"])
        phases = cache.once(conv, lambda: upsampling_phases(conv.weight))
        x = cache.borders.reach(x, 1)
        shortcut = None if shortcut is None else cache.borders.like(shortcut, x)
        y = convolve(x, phases, padding=1)
        return cache.borders.right(cache.pointwise.interleave(y, cast(Tensor, conv.bias), shortcut))


def through(stages: Iterable[nn.Module], frames: Frames, cache: FeatureCache) -> Frames:
    """Returns the frames that come out of stages, each of which is fed by the one before."""
    for stage in stages:
        frames = stage(frames, cache)
    return frames


def upsampling_phases(weight: Tensor) -> Tensor:
    """Returns the kernel that does a 3 x 3 convolution of doubled pixels on the small image.

    Args:
        weight: (O, C, 3, 3).

    Returns:
        (4 O, C, 2, 2), channels innermost in memory: `weight` for the upper left, upper right,
        lower left and lower right pixel of each 2 x 2. With one row and column of padding around
        the small image (H, W), their results are at (i, j), (i, j + 1), (i + 1, j) and
        (i + 1, j + 1) of (H + 1, W + 1). Sums of taps are rounded to the weight's dtype.
    """
    dtype = torch.promote_types(weight.dtype, torch.float32)
    taps = torch.tensor(PHASES, dtype=dtype, device=weight.device)
    phases = torch.einsum("pyh, qxw, ochw -> pqoyxc", taps, taps, weight.to(dtype))
    return phases.flatten(0, 2).to(weight.dtype).permute(0, 3, 1, 2)


def _per_pixel(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Returns (..., C_out) for x (..., C) and a convolution of single pixels."""
    return F.linear(x, conv.weight.flatten(1), conv.bias)
