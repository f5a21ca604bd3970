"""The VAEs against diffusers' AutoencoderKLWan, at other sizes than the golden tensors.

Both get the same weights. Sizes, widths and frame counts vary, so that agreement at the golden
sizes cannot be an accident. Latents are compared before normalisation, which diffusers leaves to
its pipelines.
"""

import re

import pytest
import torch
from torch import Tensor, nn

from tests.parity.recipe import fill
from wan_model.config import VaeConfig
from wan_model.vae import WanVae, build_vae

diffusers = pytest.importorskip("diffusers")

TOLERANCE = {"atol": 2e-5, "rtol": 0}
SMALL = (
    VaeConfig(variant="wan2.1", encoder_dim=12, decoder_dim=12, z_dim=16),
    VaeConfig(variant="wan2.2", encoder_dim=12, decoder_dim=8, z_dim=48),
)

RENAMED = (
    (r"^conv1\.", "quant_conv."),
    (r"^conv2\.", "post_quant_conv."),
    (r"coder\.conv1\.", "coder.conv_in."),
    (r"head\.0\.", "norm_out."),
    (r"head\.2\.", "conv_out."),
    (r"middle\.0\.", "mid_block.resnets.0."),
    (r"middle\.1\.", "mid_block.attentions.0."),
    (r"middle\.2\.", "mid_block.resnets.1."),
    (
        r"downsamples\.(\d)\.downsamples\.(\d)\.(resample|time_conv)",
        r"down_blocks.\1.downsampler.\3",
    ),
    (r"downsamples\.(\d)\.downsamples\.(\d)\.", r"down_blocks.\1.resnets.\2."),
    (r"upsamples\.(\d)\.upsamples\.(\d)\.(resample|time_conv)", r"up_blocks.\1.upsampler.\3"),
    (r"upsamples\.(\d)\.upsamples\.(\d)\.", r"up_blocks.\1.resnets.\2."),
    (r"downsamples\.(\d+)\.", r"down_blocks.\1."),
    (r"residual\.0\.", "norm1."),
    (r"residual\.2\.", "conv1."),
    (r"residual\.3\.", "norm2."),
    (r"residual\.6\.", "conv2."),
    (r"shortcut\.", "conv_shortcut."),
)


def diffusers_key(key: str) -> str:
    """Name of an official weight in diffusers."""
    for pattern, name in RENAMED:
        key = re.sub(pattern, name, key)
    if flat := re.match(r"decoder\.upsamples\.(\d+)\.(.*)", key):
        block, index = divmod(int(flat[1]), 4)
        place = f"resnets.{index}" if index < 3 else "upsamplers.0"
        key = f"decoder.up_blocks.{block}.{place}.{flat[2]}"
    return key


def build_peer(config: VaeConfig, state: dict[str, Tensor]) -> nn.Module:
    """diffusers' VAE of the same sizes with the same weights."""
    extra = {}
    if config.variant == "wan2.2":
        extra = {
            "is_residual": True,
            "in_channels": 12,
            "out_channels": 12,
            "patch_size": 2,
            "scale_factor_spatial": 16,
            "scale_factor_temporal": 4,
        }
    peer = diffusers.AutoencoderKLWan(
        base_dim=config.encoder_dim,
        decoder_base_dim=config.decoder_dim,
        z_dim=config.z_dim,
        latents_mean=[0.0] * config.z_dim,
        latents_std=[1.0] * config.z_dim,
        **extra,
    )
    peer.load_state_dict({diffusers_key(key): tensor for key, tensor in state.items()})
    return peer.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=SMALL, ids=lambda config: config.variant)
def pair(request: pytest.FixtureRequest) -> tuple[WanVae, nn.Module]:
    """Our VAE and diffusers', with the same weights."""
    vae = fill(build_vae(request.param))
    return vae, build_peer(request.param, vae.state_dict())


SIZES = ((1, 2, 3), (5, 3, 2), (9, 2, 2), (17, 2, 1))
"""Frames, and height and width in latent pixels."""


@pytest.mark.parametrize(("frames", "height", "width"), SIZES)
def test_encode(pair: tuple[WanVae, nn.Module], frames: int, height: int, width: int) -> None:
    vae, peer = pair
    stride = vae.config.spatial_stride
    generator = torch.Generator().manual_seed(frames)
    video = torch.rand(2, 3, frames, height * stride, width * stride, generator=generator) * 2 - 1
    expected = peer.encode(video).latent_dist.mode()
    torch.testing.assert_close(vae.encode(video, normalized=False), expected, **TOLERANCE)


@pytest.mark.parametrize(("frames", "height", "width"), SIZES)
def test_decode(pair: tuple[WanVae, nn.Module], frames: int, height: int, width: int) -> None:
    vae, peer = pair
    generator = torch.Generator().manual_seed(frames)
    shape = (2, vae.config.z_dim, (frames - 1) // 4 + 1, height, width)
    latent = torch.randn(shape, generator=generator)
    expected = peer.decode(latent).sample
    # diffusers clamps, which must not hide a difference.
    assert expected.abs().lt(1).float().mean() > 0.5
    ours = vae.decode(latent, normalized=False).clamp(-1, 1)
    torch.testing.assert_close(ours, expected, **TOLERANCE)
