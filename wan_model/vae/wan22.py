"""The stages of the Wan2.2 VAE (`wan/modules/vae2_2.py`).

They are residual, with shortcuts that have no weights, and work on patches of 2 x 2 pixels.

Shape legend: B batch, C channels, T frames, H height, W width (of the current resolution).
"""

import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from .cache import FeatureCache
from .layers import Downsample, ResidualBlock, Upsample

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

    def forward(self, x: Tensor, cache: FeatureCache) -> Tensor:
        """Returns (B, out_channels, T', H', W') for x (B, in_channels, T, H, W)."""
        shortcut = average_down(x, pairs=self.shrinks_time) if self.shrinks else x
        for module in self.downsamples:
            x = module(x, cache)
        return x.add_(shortcut)


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

    def forward(self, x: Tensor, cache: FeatureCache) -> Tensor:
        """Returns (B, out_channels, T', H', W') for x (B, in_channels, T, H, W)."""
        h = x
        for module in self.upsamples:
            h = module(h, cache)
        return add_repeated(h, x) if self.grows else h


def average_down(x: Tensor, *, pairs: bool) -> Tensor:
    """Averages 2 x 2 pixels and with `pairs` moves the two frames of a pair into channels.

    A lone first frame is the second of its pair; the first is zero. (AvgDown3D of the official
    code, whose groups of channels always come out as these 2 x 2 pixels.)

    Args:
        x: (B, C, T, H, W).
        pairs: whether time is halved.

    Returns:
        (B, C, T, H/2, W/2) or (B, 2C, T/2, H/2, W/2), T rounded up.
    """
    x = reduce(x, "b c t (h q) (w r) -> b c t h w", "mean", q=2, r=2)
    if not pairs:
        return x
    x = F.pad(x, (0, 0, 0, 0, x.shape[2] % 2, 0))
    return rearrange(x, "b c (t s) h w -> b (c s) t h w", s=2)


def add_repeated(h: Tensor, x: Tensor) -> Tensor:
    """Adds `x`, repeated over 2 x 2 pixels and over frames as far as `h` has more, to `h` in place.

    Where `x` has twice the channels of `h`, the two of a pair go to the upper and the lower row.
    The first frame of a video is not repeated. (DupUp3D of the official code.)

    Args:
        h: (B, C, T s, 2H, 2W) with s 1 or 2.
        x: (B, C or 2C, T, H, W).
    """
    repeated = rearrange(x, "b (c q) t h w -> b c t 1 h q w 1", c=h.shape[1])
    into = rearrange(h, "b c (t s) (h q) (w r) -> b c t s h q w r", t=x.shape[2], q=2, r=2)
    into.add_(repeated)
    return h


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
