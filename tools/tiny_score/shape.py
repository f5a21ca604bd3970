"""Names the shape of an outline, and finds how it is turned.

An outline is a radius for every angle. The magnitudes of its Fourier coefficients do not change
when the shape turns (Zahn and Roskies 1972); the phase of the n-th one tells how a shape of n
corners is turned.

Shapes: N outlines, A angles.
"""

import math

import torch
from torch import Tensor

from ..train_tiny.scenes import SHAPES

TOLERANCE = 0.1
"""Largest distance of the coefficients to those of the nearest shape, relative to the radius."""

_COEFFICIENTS = 10


def name_shape(outlines: Tensor, core: Tensor) -> str | None:
    """Names the shape that outlines of the same object show, None if it is none of ours.

    Args:
        outlines: radii, [N, A].
        core: covered share of the middle, [N].
    """
    found = _magnitudes(outlines).median(dim=0).values
    names = list(SHAPES)
    ideal = torch.stack([_ideal(name, outlines.shape[1]) for name in names])
    distance, index = (_magnitudes(ideal) - found).norm(dim=1).min(dim=0)
    if float(distance) > TOLERANCE:
        return None
    name = names[int(index)]
    if float(core.median()) < 0.5:
        return "ring" if SHAPES[name].folds == 0 else None
    return "circle" if SHAPES[name].folds == 0 else name


def turned(outlines: Tensor, shape: str) -> Tensor:
    """Returns the angle of each outline, counted on from the first, in radians, [N].

    Steps of more than half the shape's period cannot be told from smaller ones backwards.
    """
    folds = SHAPES[shape].folds
    if not folds:
        return outlines.new_zeros(len(outlines))
    phase = -torch.fft.rfft(outlines, dim=1)[:, folds].angle()
    steps = torch.remainder(phase.diff() + math.pi, 2 * math.pi) - math.pi
    return torch.cat([phase[:1] * 0, steps.cumsum(0)]) / folds


def _magnitudes(outlines: Tensor) -> Tensor:
    """Returns the first Fourier magnitudes relative to the mean radius, [N, _COEFFICIENTS]."""
    spectrum = torch.fft.rfft(outlines, dim=1).abs()
    return spectrum[:, 1 : _COEFFICIENTS + 1] / spectrum[:, :1].clamp(min=1e-6)


def _ideal(name: str, angles: int) -> Tensor:
    """Returns the outline of a shape of circumradius 1, [A]; see `Outline`."""
    outline = SHAPES[name]
    if not outline.folds:
        return torch.ones(angles)
    turn = torch.arange(angles) / angles * outline.folds
    folded = (turn - turn.round()).abs() * outline.period
    return outline.distance / torch.cos(folded - outline.normal)
