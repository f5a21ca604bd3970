"""Small inputs of any VAE of this project, the same everywhere."""

from torch import Tensor

from tests.parity.recipe import value
from wan_model.vae import WanVae


def make_latent(vae: WanVae, frames: int = 3, *, batch: int = 1) -> Tensor:
    """Returns a latent of 2 x 3 values per channel and frame."""
    return value("latent", (batch, vae.config.z_dim, frames, 2, 3))


def make_video(vae: WanVae, frames: int = 9, *, batch: int = 1) -> Tensor:
    """Returns a video whose latent has 2 x 3 values per channel and frame."""
    stride = vae.config.spatial_stride
    return value("video", (batch, 3, frames, 2 * stride, 3 * stride), 0.5).clamp(-1, 1)
