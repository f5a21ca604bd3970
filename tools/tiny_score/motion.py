"""Names the motion of a track."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..train_tiny.scenes import DIRECTIONS

WAY = 24 / 128
"""Length of the shortest straight motion, bounce or orbit that the scenes have."""

TURN = math.radians(110)
"""Smallest rotation of the scenes."""

GROWTH = math.log(1.55)
"""Smallest change of size of the scenes."""

LEAST = 0.4
"""Share of the smallest motion below which an object counts as still."""


@dataclass(frozen=True)
class Motion:
    """What an object did. Lengths in sides of the frame, over the whole clip."""

    name: str
    way: tuple[float, float]
    """From first to last place, x and y, smoothed."""
    growth: float
    """Last size divided by first size."""
    turn: float
    """Rotation in radians, clockwise positive."""
    speed: float
    """Mean speed in sides of the frame per frame."""


def name_motion(frames: Tensor, centre: Tensor, radius: Tensor, angle: Tensor) -> Motion:
    """Names a motion: the one that is largest, compared with the smallest of its kind in the data.

    Args:
        frames: numbers of the frames, [T].
        centre: x and y, [T, 2].
        radius: [T].
        angle: in radians, [T].
    """
    time = frames.float()
    span = float(time[-1] - time[0])
    way = _slope(time, centre) * span
    growth = float(_slope(time, radius.clamp(min=1e-6).log()[:, None]) * span)
    turn = float(angle[-1] - angle[0])
    evidence = {
        _direction(way): float(way.norm()) / WAY * _straightness(centre, way),
        "rotate": abs(turn) / TURN,
        "grow": growth / GROWTH,
        "shrink": -growth / GROWTH,
        "bounce": _hops(centre) / WAY,
        "orbit": _round(centre) / WAY,
    }
    name = max(evidence, key=evidence.__getitem__)
    if evidence[name] < LEAST:
        name = "still"
    path = float(centre.diff(dim=0).norm(dim=1).sum())
    return Motion(name, (float(way[0]), float(way[1])), math.exp(growth), turn, path / max(span, 1))


def _slope(time: Tensor, values: Tensor) -> Tensor:
    """Returns the slope of the straight line nearest to values [T, C], per frame, [C]."""
    centred = time - time.mean()
    return centred @ values / (centred @ centred).clamp(min=1e-6)


def _direction(way: Tensor) -> str:
    """Returns the one of the eight directions that is nearest to way [2]."""
    directions = torch.tensor(list(DIRECTIONS.values()), dtype=way.dtype)
    cosine = (directions @ way) / directions.norm(dim=1)
    return list(DIRECTIONS)[int(cosine.argmax())]


def _straightness(centre: Tensor, way: Tensor) -> float:
    """Returns 1 for a straight way and less the more the places [T, 2] stray from it."""
    time = torch.linspace(-0.5, 0.5, len(centre))
    astray = (centre - centre.mean(dim=0) - time[:, None] * way).norm(dim=1).square().mean().sqrt()
    return float((1 - 3 * astray / way.norm().clamp(min=1e-6)).clamp(0, 1))


def _hops(centre: Tensor) -> float:
    """Returns the height of an up and down motion: 0 if it goes up or down only once.

    The ways up and the ways down are added; the smaller sum, less what one single jump could
    explain, is what bouncing is made of.
    """
    height = -centre[:, 1]
    steps = _calm(height).diff()
    rise, fall = float(steps.clamp(min=0).sum()), float(-steps.clamp(max=0).sum())
    reach = float(height.max() - height.min())
    sideways = float(centre[:, 0].max() - centre[:, 0].min())
    return max(0.0, min(rise, fall, 2 * reach) - 0.5 * reach - 0.8 * sideways)


def _round(centre: Tensor) -> float:
    """Returns the diameter of a way around a middle, times the share of a full turn."""
    middle = (centre.max(dim=0).values + centre.min(dim=0).values) / 2
    spokes = centre - middle
    angle = torch.atan2(spokes[:, 1], spokes[:, 0])
    steps = torch.remainder(angle.diff() + math.pi, 2 * math.pi) - math.pi
    turn = abs(float(steps.sum())) / (2 * math.pi)
    narrowest = (centre.max(dim=0).values - centre.min(dim=0).values).min()
    return float(narrowest) * max(0.0, min(1.0, 2 * turn - 0.8))


def _calm(values: Tensor) -> Tensor:
    """Returns values without steps back of less than two pixels at 128 x 128: noise."""
    kept = [float(values[0])]
    for value in values.tolist():
        kept.append(value if abs(value - kept[-1]) > 2 / 128 else kept[-1])
    return values.new_tensor(kept)
