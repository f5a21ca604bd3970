"""Turns scenes into pixels: signed distances, batched, on any device.

Shapes: B scenes, K objects, T frames, H and W pixels.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .palette import BACKGROUND_COLOURS, OBJECT_COLOURS, Rgb
from .scene import SHAPES, Background, Scene, times, track

_FAR = (9.0, 9.0, 0.01, 0.0)
"""Track of an object that is not there."""


def render(
    scenes: Sequence[Scene],
    frames: int = 17,
    size: int = 128,
    device: torch.device | str = "cpu",
    chunk: int | None = None,
) -> Tensor:
    """Renders clips.

    Args:
        scenes: B of them.
        frames: T; motions are spread over whatever number.
        size: height and width in pixels.
        device: where to render.
        chunk: scenes rendered at a time; None: one on a CPU, whose cache it fits, else 32.

    Returns:
        Video in [-1, 1], fp32, [B, 3, T, H, W].
    """
    target = torch.device(device)
    chunk = chunk or (1 if target.type == "cpu" else 32)
    video = torch.empty(len(scenes), 3, frames, size, size, device=target)
    for start in range(0, len(scenes), chunk):
        _render(scenes[start : start + chunk], video[start : start + chunk])
    return video


def _render(scenes: Sequence[Scene], video: Tensor) -> None:
    """Renders into video [B, 3, T, H, W]."""
    frames, size = video.shape[2], video.shape[-1]
    u = times(frames)
    _paint_background(scenes, u, video)
    for k in range(max(len(scene.things) for scene in scenes)):
        things = [scene.things[k] if k < len(scene.things) else None for scene in scenes]
        absent = np.tile(_FAR, (frames, 1))
        tracks = [
            track(thing, scene.camera, u) if thing else absent
            for thing, scene in zip(things, scenes, strict=True)
        ]
        names = [(thing.colour, thing.shape) if thing else ("red", "circle") for thing in things]
        rows, columns = _window(np.stack(tracks), size)
        alpha = _coverage(
            torch.tensor(np.stack(tracks), dtype=torch.float32).to(video.device),
            torch.tensor([_outline_row(shape) for _, shape in names]).to(video.device),
            _pixel_axis(size, video.device)[rows],
            _pixel_axis(size, video.device)[columns],
            size,
        )
        colours = _rgb([OBJECT_COLOURS[colour] for colour, _ in names], video.device)
        video[..., rows, columns].lerp_(colours, alpha[:, None])
    _light(scenes, u, video)


def _light(scenes: Sequence[Scene], u: np.ndarray, video: Tensor) -> None:
    """Multiplies the colours of video [B, 3, T, H, W] by the light."""
    for scene, clip in zip(scenes, video, strict=True):
        if scene.light.motion != "steady":
            gain = torch.tensor(scene.light.gain(u), dtype=torch.float32).to(video.device)
            clip.add_(1).mul_(gain[..., None, None]).sub_(1)


def _rgb(colours: Sequence[Rgb], device: torch.device) -> Tensor:
    """Returns colours as part of a video, in [-1, 1], [B, 3, 1, 1, 1]."""
    return torch.tensor(colours).mul(2).sub(1).to(device)[:, :, None, None, None]


def _outline_row(shape: str) -> tuple[float, ...]:
    """Returns an outline as numbers: period, normal, distance, bend, hole."""
    outline = SHAPES[shape]
    bend = 1.0 if outline.folds else 0.0
    hole = outline.hole or -1.0  # a negative radius cuts nothing
    return outline.period, outline.normal, outline.distance, bend, hole


def _window(tracks: np.ndarray, size: int) -> tuple[slice, slice]:
    """Returns the rows and columns outside of which an object never is; tracks [B, T, 4]."""
    low = (tracks[..., :2] - tracks[..., 2:3]).min(axis=(0, 1))
    high = (tracks[..., :2] + tracks[..., 2:3]).max(axis=(0, 1))
    first = np.clip(np.floor((low + 0.5) * size) - 1, 0, size).astype(int)
    last = np.clip(np.ceil((high + 0.5) * size) + 1, 0, size).astype(int)
    return slice(first[1], last[1]), slice(first[0], last[0])


def _coverage(
    tracks: Tensor, outlines: Tensor, axis_y: Tensor, axis_x: Tensor, size: int
) -> Tensor:
    """Returns how much of each pixel of a window one object covers.

    The pixel's polar coordinates around the object are folded into half a sector, where the outline
    is one line (see `Outline`); for round shapes bend = 0 removes the angle. An edge is one pixel
    wide.

    Args:
        tracks: x, y, radius, angle of each frame, [B, T, 4].
        outlines: rows of `_outline_row`, [B, 5].
        axis_y: pixel centres, [H].
        axis_x: pixel centres, [W].
        size: pixels per unit of length.

    Returns:
        Coverage in [0, 1], [B, T, H, W].
    """
    x, y, radius, angle = tracks[..., None, None].unbind(2)
    period, normal, distance, bend, hole = outlines[:, :, None, None, None].unbind(1)
    dx, dy = axis_x - x, axis_y[:, None] - y
    away = torch.hypot(dx, dy)
    turn = torch.atan2(dy, dx).sub_(angle).div_(period)
    folded = turn.sub_(turn.round()).abs_().mul_(period).sub_(normal).mul_(bend).cos_()
    outside = folded.mul_(away).sub_(distance * radius)
    in_hole = away.neg_().add_(hole * radius)
    return torch.maximum(outside, in_hole).mul_(-size).add_(0.5).clamp_(0, 1)


def _paint_background(scenes: Sequence[Scene], u: np.ndarray, video: Tensor) -> None:
    """Fills video [B, 3, T, H, W] with the backgrounds as the camera sees them."""
    still = all(scene.camera.motion == "still" for scene in scenes)
    if still:  # one frame is enough
        u = u[:1]
    device, size = video.device, video.shape[-1]
    views = [np.stack([*s.camera.shift(u), 1 / s.camera.scale(u)], axis=1) for s in scenes]
    view = torch.tensor(np.stack(views), dtype=torch.float32).to(device)
    rows = torch.tensor([_pattern_row(scene.background) for scene in scenes]).to(device)
    weight = _pattern(view, rows, size)[:, None]
    first = _rgb([BACKGROUND_COLOURS[scene.background.first] for scene in scenes], device)
    second = _rgb([BACKGROUND_COLOURS[scene.background.second] for scene in scenes], device)
    video.copy_(torch.lerp(first, second, weight))


def _pattern_row(background: Background) -> tuple[float, ...]:
    """Returns a pattern as numbers: angle, slope, gain, wave_x, phase_x, wave_y, phase_y.

    The blend is 1/2 + slope x + gain sin(wave_x x + phase_x) sin(wave_y y + phase_y).
    """
    wave, half_pi = 2 * math.pi / background.wavelength, math.pi / 2
    slope = 0.9 if background.kind == "gradient" else 0.0
    gain = {"stripes": 1.0, "checker": 2.0}.get(background.kind, 0.0)
    wave_y, phase_y = (wave, background.phase) if background.kind == "checker" else (0.0, half_pi)
    return background.angle, slope, gain, wave, background.phase, wave_y, phase_y


def _pattern(view: Tensor, rows: Tensor, size: int) -> Tensor:
    """Returns the share of the second colour.

    Args:
        view: the camera's x, y and 1 / magnification, [B, T, 3].
        rows: rows of `_pattern_row`, [B, 7].
        size: H = W.

    Returns:
        Share in [0, 1], [B, T, H, W].
    """
    shift_x, shift_y, scale = view[..., None, None].unbind(2)
    angle, slope, gain, wave_x, phase_x, wave_y, phase_y = rows[:, :, None, None, None].unbind(1)
    axis = _pixel_axis(size, view.device)
    x, y = axis * scale + shift_x, axis[:, None] * scale + shift_y
    along = x * angle.cos() + y * angle.sin()
    across = y * angle.cos() - x * angle.sin()
    waves = (along * wave_x + phase_x).sin_() * (across * wave_y + phase_y).sin_()
    return waves.mul_(gain).add_(along * slope).add_(0.5).clamp_(0, 1)


def _pixel_axis(size: int, device: torch.device) -> Tensor:
    """Returns the pixel centres along one side, in [-0.5, 0.5]."""
    return (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size - 0.5
