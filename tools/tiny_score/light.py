"""Reads what the light of a clip does, and takes it away.

Shapes: T frames, H and W pixels.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .segment import border_pixels

BRIGHTNESS = math.log(1.35)
"""Least change of brightness that counts."""

WARMTH = math.log(1.3)
"""Least change of red compared with blue that counts."""

_ENDS = 3
"""Frames at either end that are compared."""

_FLOOR = 0.02
_DARKEST = 0.1
"""A background darker than this says nothing of the light."""


@dataclass(frozen=True)
class Lighting:
    """The light of a clip."""

    motion: str
    """One of `scenes.LIGHTS`."""
    gain: Tensor
    """Colour of the light in each frame, divided by that in the brightest ones, [3, T]."""


def read_light(video: Tensor) -> Lighting:
    """Compares the colour of the background, which fills most of the border, over the frames.

    Args:
        video: in [-1, 1], [3, T, H, W].
    """
    frames = (video.float() / 2 + 0.5).clamp(0, 1).unbind(1)
    colours = torch.stack([_border_colour(frame) for frame in frames], dim=1)
    first, last = colours[:, :_ENDS].mean(dim=1), colours[:, -_ENDS:].mean(dim=1)
    if float(torch.maximum(first, last).min()) < _DARKEST:
        return Lighting("steady", torch.ones_like(colours))
    change = (last + _FLOOR).log() - (first + _FLOOR).log()
    brighter, warmer = float(change.mean()), float(change[0] - change[2])
    reference = torch.maximum(first, last)[:, None]
    return Lighting(_name(brighter, warmer), (colours / reference).clamp(0.1, 1.0))


def _name(brighter: float, warmer: float) -> str:
    if abs(warmer) > WARMTH:
        return "warm" if warmer > 0 else "cold"
    if abs(brighter) > BRIGHTNESS:
        return "brighter" if brighter > 0 else "darker"
    return "steady"


def without_light(video: Tensor, light: Lighting) -> Tensor:
    """Returns a video as it would look if the light were always at its brightest."""
    shown = (video.float() / 2 + 0.5) / light.gain[..., None, None]
    return shown.clamp(0, 1) * 2 - 1


def _border_colour(frame: Tensor) -> Tensor:
    """Returns the median colour near the border of a frame [3, H, W], [3]."""
    return border_pixels(frame[:, None]).median(dim=0).values
