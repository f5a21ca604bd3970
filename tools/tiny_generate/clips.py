"""Prompts and images to latents, with the official settings.

Shape legend: B clips, C latent channels, T latent frames, H x W latent pixels.
"""

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from wan_model.conditioning import condition_video, known_frames_mask
from wan_model.config import NEGATIVE_PROMPT
from wan_model.sampling import make_sigmas
from wan_model.shapes import latent_frames
from wan_model.vae import WanVae

from .models import TinyWan
from .sample import FirstSteps, Guided, sample_along

FRAMES = 17
"""What the tiny models are trained on."""


@torch.no_grad()
def generate(
    wan: TinyWan,
    prompts: Sequence[str],
    images: Tensor | None = None,
    *,
    steps: int | None = None,
    seed: int = 0,
    frames: int = FRAMES,
    size_px: int | None = None,
) -> Tensor:
    """Returns normalised latents fp32 (B, C, T, H, W) on the device of the models.

    A clip's noise depends on its prompt and the seed only, not on the clips beside it.

    Args:
        wan: the models.
        prompts: B of them.
        images: first frames (B, 3, size_px, size_px) in [-1, 1]; I2V needs them, TI2V takes them.
        steps: of the solver. None: as many as the models want.
        seed: another one gives other clips.
        frames: of video, 4n+1.
        size_px: height and width. None: what the models are trained on.

    Raises:
        ShapeError: for a size that the models cannot make, or I2V without images.
    """
    settings, vae = wan.settings(steps), wan.vae
    cond = first = None
    if images is not None and wan.kind == "i2v":
        cond = image_condition(vae, images, frames)
    elif images is not None:
        first = vae.encode(images.unsqueeze(2)).to(vae.device)
    text = wan.encode_prompts([*prompts, NEGATIVE_PROMPT])
    negative = text[-1:].expand(len(prompts), -1, -1)
    guided = Guided(text=torch.cat((text[:-1], negative)), cond=cond, first=first)
    side = (size_px or wan.size_px) // vae.config.spatial_stride
    shape = (vae.config.z_dim, latent_frames(frames), side, side)
    noise = torch.stack([clip_noise(prompt, seed, shape) for prompt in prompts]).to(vae.device)
    sigmas = make_sigmas(settings.sampler, settings.steps, settings.shift)
    first = None
    if wan.plain_high is not None and settings.start_steps:
        first = FirstSteps(wan.plain_high, settings.start_steps, settings.cfg_start)
    return sample_along(wan.experts, guided, noise, settings, sigmas, settings.sampler, first)


def decode(vae: WanVae, latents: Tensor) -> Tensor:
    """Returns videos fp32 (B, 3, frames, height, width) on the CPU, about [-1, 1].

    All clips go through together: PyTorch has no fast fp32 convolution for a single small clip
    on the CPU.

    Args:
        vae: of the latents.
        latents: normalised, (B, C, T, H, W).
    """
    return torch.cat([part.float().cpu() for part in vae.decode_frames(latents)], dim=2)


def clip_noise(prompt: str, seed: int, shape: tuple[int, ...]) -> Tensor:
    """Returns fp32 noise, the same on every device."""
    rng = torch.Generator().manual_seed(zlib.crc32(f"{seed} {prompt}".encode()))
    return torch.randn(shape, generator=rng)


def image_condition(vae: WanVae, images: Tensor, frames: int) -> Tensor:
    """Returns mask and image channels fp32 (B, 20, T, H, W) for I2V, on the VAE's device.

    Args:
        vae: Wan2.1.
        images: first frames (B, 3, height, width) in [-1, 1].
        frames: of video.
    """
    starts = ((images.cpu() + 1) / 2).movedim(1, -1).unsqueeze(1)
    video = torch.stack([condition_video(frames, start, None) for start in starts])
    latent = vae.encode(video.movedim(-1, 1) * 2 - 1)
    mask = known_frames_mask(frames, 1, 0, *latent.shape[-2:]).expand(len(latent), -1, -1, -1, -1)
    return torch.cat((mask, latent), dim=1).to(vae.device)
