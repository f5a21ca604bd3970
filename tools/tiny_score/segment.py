"""Separates objects from the background.

Shapes: T frames, H and W pixels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..train_tiny.scenes import oklab

THRESHOLD = 0.08
"""Least Oklab distance to the background of what can be an object."""

_BORDER = 5 / 128
_MIXTURES = 9


@dataclass(frozen=True)
class Contrast:
    """How every pixel differs from the background."""

    lab: Tensor
    """Colours in Oklab, a little smoothed, [T, H, W, 3]."""
    distance: Tensor
    """Oklab distance to the nearest background colour, [T, H, W]."""
    threshold: float
    """Distance from which on a pixel is an object rather than noise."""


def contrast_to_background(video: Tensor) -> Contrast:
    """Measures how every pixel differs from the background.

    The background is taken to be one colour, or mixtures of two, and to fill most of the frames'
    border. That is all that is assumed: its colours are found, not known.

    Args:
        video: in [-1, 1], [3, T, H, W].
    """
    rgb = _smooth((video.float() / 2 + 0.5).clamp(0, 1))
    border = border_pixels(rgb)
    mixtures = oklab(_colour_line(border))
    lab = oklab(rgb.permute(1, 2, 3, 0))
    distance = _distance(lab.reshape(-1, 3), mixtures).reshape(lab.shape[:-1])
    spread = _distance(oklab(border), mixtures).quantile(0.8)
    return Contrast(lab, distance, max(THRESHOLD, 2.5 * float(spread)))


def _smooth(video: Tensor) -> Tensor:
    """Applies the 3 x 3 binomial filter to every frame of [3, T, H, W]."""
    row = video.new_tensor([0.25, 0.5, 0.25])
    kernel = (row[:, None] * row).expand(video.shape[1], 1, 3, 3)
    padded = F.pad(video, (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, kernel, groups=video.shape[1])


def border_pixels(rgb: Tensor) -> Tensor:
    """Returns the pixels near the border of all frames, [N, 3]."""
    width = max(1, round(_BORDER * rgb.shape[-1]))
    inside = torch.zeros(rgb.shape[-2:], dtype=torch.bool, device=rgb.device)
    inside[width:-width, width:-width] = True
    return rgb[:, :, ~inside].flatten(1).T


def _colour_line(pixels: Tensor) -> Tensor:
    """Fits the mixtures of two colours to pixels [N, 3] and returns samples of them, [M, 3].

    Pixels far from the median are left out, so that an object touching the border does no harm.
    """
    far = (pixels - pixels.median(dim=0).values).norm(dim=1)
    pixels = pixels[far <= far.quantile(0.9)]
    mean = pixels.mean(dim=0)
    direction = torch.linalg.eigh((pixels - mean).T @ (pixels - mean)).eigenvectors[:, -1]
    along = (pixels - mean) @ direction
    low, high = along.quantile(along.new_tensor([0.03, 0.97]))
    ends = torch.stack([low, high]) + 0.1 * (high - low) * along.new_tensor([-1, 1])
    ends = (mean + ends[:, None] * direction).clamp(0, 1)
    steps = torch.linspace(0, 1, _MIXTURES, device=pixels.device)[:, None]
    return torch.lerp(ends[0], ends[1], steps)


def _distance(colours: Tensor, mixtures: Tensor) -> Tensor:
    """Returns the distance of colours [N, 3] to the nearest of mixtures [M, 3]."""
    return torch.cdist(colours, mixtures).min(dim=1).values
