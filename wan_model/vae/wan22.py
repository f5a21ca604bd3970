"""The stages of the Wan2.2 VAE (`wan/modules/vae2_2.py`).

They are residual, with shortcuts that have no weights, and work on patches of 2 x 2 pixels.

Shape legend: B batch, H height, W width (of the current resolution), C channels.
"""

from collections.abc import Sequence
from functools import partial
from itertools import chain

import torch
from einops import reduce
from torch import Tensor, nn

from .feature_cache import FeatureCache
from .layers import Downsample, Frames, ResidualBlock, Upsample, through

LATENT_MEAN = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557,
    -0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825,
    -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230,
    -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748,
    0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)  # fmt: skip
"""Mean of each latent channel."""

LATENT_STD = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013,
    0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978,
    0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093,
    0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887,
    0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)  # fmt: skip
"""Standard deviation of each latent channel."""


class DownStage(nn.Module):
    """Two residual blocks and a downsampling, added to an average of the input."""

    def __init__(self, in_channels: int, out_channels: int, down: Downsample | None) -> None:
        super().__init__()
        blocks = [
            ResidualBlock(in_channels, out_channels),
            ResidualBlock(out_channels, out_channels),
        ]
        self.downsamples = nn.ModuleList([*blocks, down] if down else blocks)
        self.shrinks = down is not None
        self.shrinks_time = down is not None and down.time_conv is not None

    def forward(self, frames: Frames, cache: FeatureCache) -> Frames:
        """Returns frames (B, H', W', out_channels) for (B, H, W, in_channels)."""
        pairs = self.shrinks_time and not cache.first
        groups = zip(frames, frames, strict=True) if pairs else zip(frames, strict=True)
        return map(partial(self._group, cache=cache), groups)

    def _group(self, group: tuple[Tensor, ...], cache: FeatureCache) -> Tensor:
        """Returns the frame that comes of one or two."""
        [y] = through(self.downsamples, iter(group), cache)
        x = [cache.borders.like(frame, y, scale=1 + self.shrinks) for frame in group]
        # Not in place: a convolution over time may remember `y`.
        return y + (average_down(x, to_channels=y.shape[-1]) if self.shrinks else x[0])


class UpStage(nn.Module):
    """Three residual blocks and an upsampling, added to the repeated input.

    The last stage has no upsampling and nothing is added.
    """

    def __init__(self, in_channels: int, out_channels: int, up: Upsample | None) -> None:
        super().__init__()
        blocks = [ResidualBlock(in_channels, out_channels)]
        blocks += [ResidualBlock(out_channels, out_channels) for _ in range(2)]
        self.upsamples = nn.ModuleList([*blocks, up] if up else blocks)
        self.grows = up is not None

    def forward(self, frames: Frames, cache: FeatureCache) -> Frames:
        """Returns frames (B, H', W', out_channels) for (B, H, W, in_channels)."""
        if not self.grows:
            return through(self.upsamples, frames, cache)
        return chain.from_iterable(map(partial(self._frame, cache=cache), frames))

    def _frame(self, x: Tensor, cache: FeatureCache) -> Frames:
        """Returns the one or two frames that come of one."""
        *blocks, up = self.upsamples
        return up(through(blocks, iter([x]), cache), cache, shortcut=x)


def average_down(frames: Sequence[Tensor], *, to_channels: int) -> Tensor:
    """Averages 2 x 2 pixels, and moves the two frames of a pair into channels.

    A lone frame for which there are twice its channels is the second of its pair; the first is
    zero. (AvgDown3D of the official code, whose groups of channels always come out as these 2 x 2
    pixels.)

    Args:
        frames: one or two, (B, H, W, C).
        to_channels: C or 2C.

    Returns:
        (B, H/2, W/2, to_channels).
    """
    means = [reduce(x, "b (h q) (w r) c -> b h w c", "mean", q=2, r=2) for x in frames]
    if len(means) * means[0].shape[-1] < to_channels:
        means.insert(0, torch.zeros_like(means[0]))
    return torch.stack(means, dim=-1).flatten(-2)


def down_stages(dim: int) -> nn.ModuleList:
    """Returns the encoder's stages from `dim` to 4 `dim` channels: 8x in space, 4x in time."""
    return nn.ModuleList(
        [
            DownStage(dim, dim, Downsample(dim, time=False)),
            DownStage(dim, 2 * dim, Downsample(2 * dim, time=True)),
            DownStage(2 * dim, 4 * dim, Downsample(4 * dim, time=True)),
            DownStage(4 * dim, 4 * dim, None),
        ]
    )


def up_stages(dim: int) -> nn.ModuleList:
    """Returns the decoder's stages from 4 `dim` to `dim` channels; upsampling keeps the width."""
    return nn.ModuleList(
        [
            UpStage(4 * dim, 4 * dim, Upsample(4 * dim, 4 * dim, time=True)),
            UpStage(4 * dim, 4 * dim, Upsample(4 * dim, 4 * dim, time=True)),
            UpStage(4 * dim, 2 * dim, Upsample(2 * dim, 2 * dim, time=False)),
            UpStage(2 * dim, dim, None),
        ]
    )
