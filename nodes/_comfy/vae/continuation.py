"""Clips that go on where the latent of another one ends."""

from typing import Any

import comfy.latent_formats
import node_helpers
import torch
from torch import Tensor

from ....wan_model.clips import WARM_UP
from ....wan_model.conditioning import amplify_motion, known_frames_mask
from ....wan_model.shapes import TEMPORAL_STRIDE, latent_frames
from .comfy_vae import decode

CONTINUES = "wanduet_continues"
"""In a LATENT that continues another: frames of no use at its beginning, then those that repeat."""

MOTION = 1
"""Latent frames of the clip before that SVI 2 Pro is given."""

AFTER_ANCHOR = (1, MOTION * TEMPORAL_STRIDE)
"""Of a clip of SVI 2 Pro: its first frame is the anchor."""


def last_frames(vae: Any, previous: Tensor, count: int) -> Tensor:
    """Returns the last frames (count, H, W, 3) of a latent; only its end is decoded.

    Args:
        vae: of the latent.
        previous: (1, C, T', h, w).
        count: 4n+1.
    """
    end = previous[:, :, -(latent_frames(count) + WARM_UP) :]
    return decode(vae, end, "auto")[-count:]


def with_anchor(
    conditionings: tuple[Any, Any],
    vae: Any,
    anchor: Tensor,
    previous: Tensor | None,
    frames: int,
    amplitude: float,
) -> list[Any]:
    """Adds what an I2V-A14B with the LoRA SVI 2 Pro is given, to both conditionings.

    That is the anchor image's latent, the last latent frame of the clip before, and zeros in the
    model's normalised numbers; only the anchor is marked as given. The layout is that of
    vita-epfl/Stable-Video-Infinity, version 2.0 Pro (December 2025).

    Args:
        conditionings: positive and negative, unchanged.
        vae: a VAE with 16 channels.
        anchor: image (1, H, W, 3) in [0, 1].
        previous: latent (1, C, T', h, w) of the clip before; None for the first clip.
        frames: of the new clip, 4n+1.
        amplitude: of the motion, 1 for the model's own.
    """
    first = vae.encode(anchor)
    batch, channels, _, height, width = first.shape
    rest = torch.zeros(batch, channels, latent_frames(frames) - 1, height, width)
    rest = comfy.latent_formats.Wan21().process_out(rest).to(first)
    mask = known_frames_mask(frames, 1, 0, height, width)
    latent = amplify_motion(torch.cat((first, rest), dim=2), mask, amplitude)
    if previous is not None:
        latent[:, :, 1 : 1 + MOTION] = previous[:, :, -MOTION:].to(latent)
    values = {"concat_latent_image": latent, "concat_mask": 1.0 - mask}
    return [node_helpers.conditioning_set_values(c, values) for c in conditionings]


def continued(latent: dict[str, Any], lead: int, repeats: int) -> dict[str, Any]:
    """Returns a LATENT that says what of it the clip before has shown already.

    Args:
        latent: of the new clip.
        lead: frames at its beginning that are no part of the video.
        repeats: frames after these that the clip before has, too.
    """
    return {**latent, CONTINUES: (lead, repeats)}
