"""Finds the objects of every frame and measures them.

Shapes: N blobs of all frames, T frames, H and W pixels, P pixels of a patch's side, A angles.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .components import label
from .segment import Contrast

ANGLES = 64
"""Rays on which the outline is measured."""

MIN_AREA = 0.007
"""Least share of the frame that counts as an object."""

MAX_PER_FRAME = 4
"""Only the largest blobs of a frame are measured."""

_REACH = 0.32
"""Half side of the patch around a blob, in sides of the frame."""

_STEPS = 56


@dataclass(frozen=True)
class Blobs:
    """Measurements of all blobs of a clip, in order of frames. Lengths in sides of the frame."""

    frame: Tensor
    """Number of the frame, [N]."""
    centre: Tensor
    """Centre of mass, x and y with the origin in the frame's middle, [N, 2]."""
    area: Tensor
    """Covered share of the frame, [N]."""
    colour: Tensor
    """Oklab, [N, 3]."""
    outline: Tensor
    """Distance from the centre to the outline in `ANGLES` directions, clockwise, [N, A]."""
    core: Tensor
    """Covered share of the middle, near 0 for a hole, [N]."""


def find_blobs(contrast: Contrast) -> Blobs:
    """Finds and measures the objects of every frame."""
    size = contrast.distance.shape[-1]
    # Half resolution is enough to tell regions apart, and bridges gaps of a pixel.
    labels = label(F.avg_pool2d(contrast.distance, 2) > contrast.threshold)
    regions = _largest(labels)
    if not regions:
        return _nothing()
    reach = round(_REACH * size)
    frame = torch.tensor([f for f, _ in regions], dtype=torch.int64)
    numbers = torch.tensor([number for _, number in regions], dtype=torch.int64)
    masks = (labels[frame] == numbers[:, None, None]).float()[:, None]
    # Loosened by a pixel of the half resolution, so that soft edges are inside.
    masks = F.interpolate(F.max_pool2d(masks, 3, 1, 1), scale_factor=2.0)[:, 0]
    distance = F.pad(contrast.distance[frame] * masks, (reach,) * 4)
    lab = F.pad(contrast.lab[frame].permute(0, 3, 1, 2), (reach,) * 4)
    corners = _centre_of_mass(masks).round().long()
    distance = _crop(distance[:, None], corners, 2 * reach)[:, 0]
    lab = _crop(lab, corners, 2 * reach)
    colour = _typical_colour(lab, distance)
    coverage = _coverage(lab, distance, colour)
    inner = _centre_of_mass(coverage)
    outline, core = _outline(coverage, inner)
    area = coverage.sum(dim=(1, 2)) / size**2
    keep = area > MIN_AREA
    centre = (corners - reach + inner + 0.5) / size - 0.5
    blobs = Blobs(frame, centre, area, colour, outline / size, core)
    return Blobs(*(value[keep] for value in vars(blobs).values()))


def _nothing() -> Blobs:
    """Returns the measurements of no blobs."""
    shapes = ((0,), (0, 2), (0,), (0, 3), (0, ANGLES), (0,))
    return Blobs(*(torch.zeros(shape) for shape in shapes))


def _largest(labels: Tensor) -> list[tuple[int, int]]:
    """Returns frame and number of the largest regions of every frame; labels [T, h, w]."""
    regions = []
    for frame, grid in enumerate(labels):
        numbers, areas = grid[grid > 0].unique(return_counts=True)
        order = areas.argsort(descending=True)[:MAX_PER_FRAME]
        least = 0.5 * MIN_AREA * grid.numel()
        regions += [(frame, int(numbers[i])) for i in order if areas[i] >= least]
    return regions


def _centre_of_mass(weights: Tensor) -> Tensor:
    """Returns x and y in pixels, counted from the first pixel's centre; [N, H, W] -> [N, 2]."""
    total = weights.sum(dim=(1, 2)).clamp(min=1e-6)
    steps = torch.arange(weights.shape[-1], dtype=weights.dtype)
    return torch.stack([weights.sum(dim=1) @ steps, weights.sum(dim=2) @ steps], 1) / total[:, None]


def _crop(images: Tensor, corners: Tensor, side: int) -> Tensor:
    """Cuts squares out of images [N, C, H, W] at x, y of corners [N, 2]; [N, C, side, side]."""
    cut = [
        image[:, y : y + side, x : x + side]
        for image, (x, y) in zip(images, corners.tolist(), strict=True)
    ]
    return torch.stack(cut)


def _typical_colour(lab: Tensor, distance: Tensor) -> Tensor:
    """Returns the median colour of the pixels that differ most; lab [N, 3, P, P] -> [N, 3]."""
    inside = distance > 0.7 * distance.flatten(1).quantile(0.97, dim=1)[:, None, None]
    values = torch.where(inside[:, None], lab, torch.nan)
    return values.flatten(2).nanmedian(dim=2).values


def _coverage(lab: Tensor, distance: Tensor, colour: Tensor) -> Tensor:
    """Returns how much of each pixel is the object rather than background, [N, P, P].

    A mixture's distances to both of its colours tell the shares.
    """
    to_object = (lab - colour[:, :, None, None]).norm(dim=1)
    share = distance / (distance + to_object).clamp(min=1e-6)
    return (2 * share - 0.5).clamp(0, 1)


def _outline(coverage: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Measures outlines on rays from the centre.

    Args:
        coverage: [N, P, P].
        centre: x and y in pixels, [N, 2].

    Returns:
        Radius of the outermost covered point of every ray in pixels [N, A]; covered share of the
        innermost quarter [N].
    """
    side = coverage.shape[-1]
    angle = torch.arange(ANGLES) * (2 * math.pi / ANGLES)
    step = side / 2 / _STEPS
    radius = (torch.arange(_STEPS) + 0.5) * step
    rays = torch.stack([angle.cos(), angle.sin()], dim=-1)[:, None] * radius[:, None]
    points = (centre[:, None, None] + rays + 0.5) * (2 / side) - 1
    profile = F.grid_sample(coverage[:, None], points, align_corners=False)[:, 0]
    # Filled from the outside in, so that a hole does not count.
    filled = profile.flip(-1).cummax(dim=-1).values
    outline = filled.sum(dim=-1) * step
    near = radius < 0.25 * outline.mean(dim=1, keepdim=True)
    core = (profile.mean(dim=1) * near).sum(dim=1) / near.sum(dim=1).clamp(min=1)
    return outline, core
