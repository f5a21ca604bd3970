"""The two networks of a VAE, whose stages `wan21` and `wan22` provide.

Shape legend: B batch, C channels, T frames, H height, W width.
"""

from torch import Tensor, nn

from .cache import FeatureCache
from .layers import Head, Middle, conv3x3x3


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
        """Returns (B, out_channels, 1, H/8, W/8) for x (B, in_channels, 1 or 4, H, W)."""
        x = self.conv1(cache.prepend(self.conv1, x))
        for stage in self.downsamples:
            x = stage(x, cache)
        return self.head(self.middle(x, cache), cache)


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
        """Returns (B, out_channels, 1 or 4, 8H, 8W) for z (B, in_channels, 1, H, W)."""
        x = self.conv1(cache.prepend(self.conv1, z))
        x = self.middle(x, cache)
        for stage in self.upsamples:
            x = stage(x, cache)
        return self.head(x, cache)
