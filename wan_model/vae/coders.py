"""The two networks of a VAE, whose stages `wan21` and `wan22` provide.

Shape legend: B batch, C channels, T frames, H height, W width.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .feature_cache import FeatureCache
from .layers import Frames, Head, Middle, conv3x3x3, through


class Encoder(nn.Module):
    """Pixels to the posterior's mean and log variance."""

    def __init__(
        self, in_channels: int, dim: int, stages: nn.ModuleList, out_channels: int
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3x3(in_channels, dim)
        self.downsamples = stages
        self.middle = Middle(4 * dim)
        self.head = Head(4 * dim, out_channels)

    def forward(self, x: Tensor, cache: FeatureCache) -> Tensor:
        """Returns (B, out_channels, T', H/8, W/8) for x (B, in_channels, T, H, W).

        T is 1 at the start of a video, then a multiple of 4, and T' is 1 for up to 4.
        """
        return stream((self.conv1, *self.downsamples, self.middle, self.head), x, cache)


class Decoder(nn.Module):
    """Latent to pixels."""

    def __init__(
        self, in_channels: int, dim: int, stages: nn.ModuleList, out_channels: int
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3x3(in_channels, 4 * dim)
        self.middle = Middle(4 * dim)
        self.upsamples = stages
        self.head = Head(dim, out_channels)

    def forward(self, z: Tensor, cache: FeatureCache) -> Tensor:
        """Returns (B, out_channels, T', 8H, 8W) for z (B, in_channels, T, H, W).

        T is 1 at the start of a video, which makes T' 1; after that T' is 4 T.
        """
        return stream((self.conv1, self.middle, *self.upsamples, self.head), z, cache)


def stream(stages: Iterable[nn.Module], x: Tensor, cache: FeatureCache) -> Tensor:
    """Returns (B, C', T', H', W') for x (B, C, T, H, W), sent through stages frame by frame."""
    frames: Frames = iter(x.permute(2, 0, 3, 4, 1))
    results = through(stages, frames, cache)
    return torch.stack([frame.permute(0, 3, 1, 2) for frame in results], dim=2)
