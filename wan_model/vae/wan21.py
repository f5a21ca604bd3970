"""The stages of the Wan2.1 VAE: one flat list of blocks each way (`wan/modules/vae2_1.py`)."""

from torch import nn

from .layers import Downsample, ResidualBlock, Upsample

LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
"""Mean of each latent channel."""

LATENT_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip
"""Standard deviation of each latent channel."""


def down_stages(dim: int) -> nn.ModuleList:
    """Returns the encoder's blocks from `dim` to 4 `dim` channels: 8x in space, 4x in time."""
    return nn.ModuleList(
        [
            ResidualBlock(dim, dim),
            ResidualBlock(dim, dim),
            Downsample(dim, time=False),
            ResidualBlock(dim, 2 * dim),
            ResidualBlock(2 * dim, 2 * dim),
            Downsample(2 * dim, time=True),
            ResidualBlock(2 * dim, 4 * dim),
            ResidualBlock(4 * dim, 4 * dim),
            Downsample(4 * dim, time=True),
            ResidualBlock(4 * dim, 4 * dim),
            ResidualBlock(4 * dim, 4 * dim),
        ]
    )


def up_stages(dim: int) -> nn.ModuleList:
    """Returns the decoder's blocks from 4 `dim` to `dim` channels; upsampling halves the width."""
    return nn.ModuleList(
        [
            *(ResidualBlock(4 * dim, 4 * dim) for _ in range(3)),
            Upsample(4 * dim, 2 * dim, time=True),
            ResidualBlock(2 * dim, 4 * dim),
            ResidualBlock(4 * dim, 4 * dim),
            ResidualBlock(4 * dim, 4 * dim),
            Upsample(4 * dim, 2 * dim, time=True),
            *(ResidualBlock(2 * dim, 2 * dim) for _ in range(3)),
            Upsample(2 * dim, dim, time=False),
            *(ResidualBlock(dim, dim) for _ in range(3)),
        ]
    )
