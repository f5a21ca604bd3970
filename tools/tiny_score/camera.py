"""Reads how the camera moves, from what is behind the objects.

Every motion that the scenes have is tried: each frame is moved as the camera would move it in a
quarter of the clip, and compared with the frame that came then. The one that fits best counts, if
it fits much better than none.

Shapes: T frames, H and W pixels, P pairs of frames.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..train_tiny.scenes import DIRECTIONS
from .segment import contrast_to_background

PANS = (0.15, 0.21, 0.27, 0.33, 0.39, 0.45)
"""Ways over the whole clip that are tried, in sides of the frame."""

ZOOMS = (1.25, 1.4, 1.55, 1.7)
"""Factors over the whole clip that are tried."""

STILL = 0.6
"""Share of a still camera's error above which another one is not believed."""

_SIDE = 64
_SHARE = 4
"""Of a clip are between the frames that are compared."""

_LEAST_ERROR = 2e-4
"""Mean square below which nothing moves; in a range of 1."""


def read_camera(video: Tensor) -> str:
    """Returns one of `scenes.CAMERAS`.

    Args:
        video: in [-1, 1], [3, T, H, W].
    """
    frames = video.shape[1]
    step = max(1, (frames - 1) // _SHARE)
    part = step / max(1, frames - 1)
    contrast = contrast_to_background(video)
    free = (contrast.distance < contrast.threshold).float()
    small = F.interpolate(video.transpose(0, 1) / 2, (_SIDE, _SIDE), mode="area")
    # A pixel counts only if nothing but background is near.
    free = -F.max_pool2d(-F.interpolate(free[:, None], (_SIDE, _SIDE), mode="area"), 3, 1, 1)
    images = torch.cat((small, (free > 0.99).float()), dim=1)
    before, after = images[:-step], images[step:]
    still = _error(before, after, 0.0, 0.0, 1.0)
    errors = {
        name: min(_error(before, after, way * x * part, way * y * part, 1.0) for way in PANS)
        for name, (x, y) in DIRECTIONS.items()
        if not (x and y)
    }
    for name, sign in (("in", 1), ("out", -1)):
        errors[name] = min(_error(before, after, 0.0, 0.0, z ** (sign * part)) for z in ZOOMS)
    best = min(errors, key=errors.__getitem__)
    return best if still > _LEAST_ERROR and errors[best] < STILL * still else "still"


def _error(before: Tensor, after: Tensor, x: float, y: float, zoom: float) -> float:
    """Returns the mean square of what is wrong if the camera had moved so.

    Args:
        before: frames and which of their pixels are background, [P, 4, H, W].
        after: the frames that follow, [P, 4, H, W].
        x: way of the camera to the right, in sides of the frame.
        y: way down.
        zoom: magnification.
    """
    axis = (torch.arange(_SIDE) + 0.5) / _SIDE - 0.5
    rows, columns = torch.meshgrid(axis / zoom + y, axis / zoom + x, indexing="ij")
    grid = torch.stack((columns, rows), dim=-1).mul(2).expand(len(before), -1, -1, -1)
    moved = F.grid_sample(before, grid, align_corners=False)
    both = (moved[:, 3] > 0.99) & (after[:, 3] > 0.5)
    if int(both.sum()) < _SIDE * _SIDE:
        return 1.0
    wrong = (moved[:, :3] - after[:, :3]).square().mean(dim=1)
    return float(wrong[both].mean())
