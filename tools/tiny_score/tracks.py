"""Follows objects from frame to frame."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..train_tiny.scenes import OBJECT_COLOURS, oklab
from .blobs import Blobs
from .shape import name_shape, turned

PRESENCE = 0.7
"""Share of the frames in which an object must be seen."""

COLOUR_TOLERANCE = 0.16
"""Largest Oklab distance to a colour of the palette."""

_JUMP = 0.2
"""Farthest an object moves between frames, in sides of the frame."""


@dataclass(frozen=True)
class Track:
    """One object through the clip: its T' sightings. Lengths in sides of the frame."""

    colour: str | None
    shape: str | None
    frames: Tensor
    """Numbers of the frames in which it is seen, [T']."""
    centre: Tensor
    """x and y, [T', 2]."""
    radius: Tensor
    """Mean radius, [T']."""
    angle: Tensor
    """How far it has turned since the first frame, in radians, [T']."""


def follow(blobs: Blobs, frames: int) -> list[Track]:
    """Joins the blobs of all frames to tracks and drops those that are seldom seen.

    Every blob goes to the track that ended nearest to it, by place and colour, largest blob first.
    """
    chains: list[list[int]] = []
    for frame in range(frames):
        free = list(chains)
        for blob in torch.nonzero(blobs.frame == frame).flatten().tolist():
            costs = [_cost(blobs, chain[-1], blob) for chain in free]
            best = min(range(len(free)), key=costs.__getitem__, default=None)
            if best is not None and costs[best] < _JUMP:
                free.pop(best).append(blob)
            else:
                chains.append([blob])
    return [_track(blobs, chain) for chain in chains if len(chain) >= PRESENCE * frames]


def _cost(blobs: Blobs, last: int, blob: int) -> float:
    """Returns how unlike two sightings are: distance on the screen plus a share of Oklab's."""
    way = blobs.centre[last] - blobs.centre[blob]
    shade = blobs.colour[last] - blobs.colour[blob]
    return float(way.norm() + 0.5 * shade.norm())


def _track(blobs: Blobs, chain: list[int]) -> Track:
    outline = blobs.outline[chain]
    shape = name_shape(outline, blobs.core[chain])
    angle = turned(outline, shape) if shape else torch.zeros(len(chain))
    colour = name_colour(blobs.colour[chain].median(dim=0).values)
    centre, radius = blobs.centre[chain], outline.mean(dim=1)
    return Track(colour, shape, blobs.frame[chain], centre, radius, angle)


def name_colour(lab: Tensor) -> str | None:
    """Names the palette's colour nearest to an Oklab colour [3], None if none is near."""
    palette = oklab(torch.tensor(list(OBJECT_COLOURS.values())))
    distance, index = (palette - lab).norm(dim=1).min(dim=0)
    return list(OBJECT_COLOURS)[int(index)] if float(distance) <= COLOUR_TOLERANCE else None
