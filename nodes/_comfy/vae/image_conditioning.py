"""Images in ComfyUI's conditionings and latents, in the keys that its model classes read."""

from typing import Any

import comfy.latent_formats
import node_helpers
import torch
from torch import Tensor

from ....wan_model.conditioning import amplify_motion


def with_condition_video(
    conditionings: tuple[Any, Any], vae: Any, video: Tensor, mask: Tensor, amplitude: float
) -> list[Any]:
    """Adds an I2V-A14B condition to the positive and the negative conditioning.

    Args:
        conditionings: both, unchanged.
        vae: a VAE with 16 channels.
        video: given frames and grey ones (T, H, W, 3) in [0, 1].
        mask: (1, 4, T', h, w), 1 = given. ComfyUI keeps it inverted.
        amplitude: of the motion, 1 for the model's own.
    """
    latent = amplify_motion(vae.encode(video), mask, amplitude)
    values = {"concat_latent_image": latent, "concat_mask": 1.0 - mask}
    return [node_helpers.conditioning_set_values(c, values) for c in conditionings]


def with_first_frames(latent: dict[str, Any], vae: Any, start: Tensor | None) -> dict[str, Any]:
    """Returns a TI2V-5B latent that begins with given frames, which the sampler then keeps.

    The frames are encoded alone. Where noise comes, the latent is zero in the model's normalised
    numbers, in which ComfyUI's latents are not kept.

    Args:
        latent: empty latent with samples (B, 48, T', h, w).
        vae: a VAE with 48 channels.
        start: frames (4n+1, H, W, 3) in [0, 1].
    """
    samples = latent["samples"]
    known = vae.encode(start).to(samples)
    samples = comfy.latent_formats.Wan22().process_out(samples)
    samples[:, :, : known.shape[2]] = known
    mask = torch.ones_like(samples[:, :1])
    mask[:, :, : known.shape[2]] = 0
    return {**latent, "samples": samples, "noise_mask": mask}
