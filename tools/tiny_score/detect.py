"""Reads a video: which objects it shows and what they do."""

from dataclasses import dataclass

from torch import Tensor

from .blobs import find_blobs
from .motion import Motion, name_motion
from .segment import contrast_to_background
from .tracks import Track, follow


@dataclass(frozen=True)
class Detected:
    """One object that was found. None means something that is not in the data's world."""

    colour: str | None
    shape: str | None
    motion: Motion
    radius: float
    """Mean radius in sides of the frame."""
    presence: float
    """Share of the frames in which it is seen."""
    track: Track


def detect(video: Tensor) -> tuple[Detected, ...]:
    """Finds the objects of a video, largest first.

    Args:
        video: in [-1, 1], square and of even size, [3, T, H, W]. What is not a number counts as
            grey.

    Raises:
        ValueError: the video has another shape.
    """
    if video.ndim != 4 or video.shape[2] != video.shape[3] or video.shape[3] % 2:
        shape = tuple(video.shape)
        raise ValueError(
            f"The video cannot be read. Got {shape}, need [3, T, H, W] with H = W even. Crop it."
        )
    frames = video.shape[1]
    tracks = follow(find_blobs(contrast_to_background(video.cpu().nan_to_num())), frames)
    found = [
        Detected(
            track.colour,
            track.shape,
            name_motion(track.frames, track.centre, track.radius, track.angle),
            float(track.radius.mean()),
            len(track.frames) / frames,
            track,
        )
        for track in tracks
    ]
    return tuple(sorted(found, key=lambda item: -item.radius))
