"""Where the one object of a video is, how it moves over a seam, and what lies behind it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tools.tiny_score.blobs import find_blobs
from tools.tiny_score.segment import contrast_to_background
from tools.train_tiny.scenes import BACKGROUND_COLOURS, oklab


@dataclass(frozen=True)
class Seam:
    """What is measured at one place of one video."""

    step_px: float
    speed_ratio: float
    colour_levels: float


@dataclass(frozen=True)
class Track:
    """What is seen in the frames of a video."""

    centre: Tensor
    """Of the object, in pixels of 128 [T, 2]; NaN where none is seen."""
    level: Tensor
    """Mean colour of the border, 0 to 255 [T, 3]."""

    @staticmethod
    def of(video: Tensor) -> "Track":
        """Reads a video in [-1, 1], [3, T, H, W]."""
        blobs = find_blobs(contrast_to_background(video))
        centre = torch.full((video.shape[1], 2), torch.nan)
        for frame in range(video.shape[1]):
            found = (blobs.frame == frame).nonzero().flatten()
            if len(found):
                centre[frame] = 128 * blobs.centre[found[blobs.area[found].argmax()]]
        return Track(centre, (_border(video).mean(2).T + 1) * 127.5)

    @property
    def speeds(self) -> Tensor:
        """Pixels from each frame to the next [T - 1]."""
        return self.centre.diff(dim=0).norm(dim=1)

    def seam(self, first: int) -> Seam:
        """Measures at the first frame after a seam."""
        ways = self.centre.diff(dim=0)
        before, over, after = ways[first - 4 : first - 1], ways[first - 1], ways[first : first + 4]
        around = (before[-1] + after[0]) / 2
        ratio = after.norm(dim=1).mean() / before.norm(dim=1).mean().clamp(min=0.1)
        step = (self.level[first] - self.level[first - 1]).abs().mean()
        return Seam(float((over - around).norm()), float(ratio), float(step))

    def worst(self) -> Seam:
        """Measures at every frame."""
        frames = range(4, len(self.centre) - 4)
        seams = [self.seam(frame) for frame in frames]
        known = [seam.step_px for seam in seams if seam.step_px == seam.step_px]
        half = len(self.speeds) // 2
        ratio = self.speeds[half:].nanmean() / self.speeds[:half].nanmean().clamp(min=0.1)
        return Seam(
            max(known, default=torch.nan), float(ratio), max(seam.colour_levels for seam in seams)
        )

    def until(self, frame: int) -> "Track":
        """Returns the track of the frames before one."""
        return Track(self.centre[:frame], self.level[:frame])

    def round(self) -> "Track":
        """Returns the track of a video that is played twice."""
        return Track(self.centre.repeat(2, 1), self.level.repeat(2, 1))


def background_of(video: Tensor) -> str:
    """Returns the commonest colour of the border of a video in [-1, 1], [3, T, H, W]."""
    shown = oklab((_border(video).flatten(1).T + 1) / 2)
    palette = oklab(torch.tensor(list(BACKGROUND_COLOURS.values())))
    nearest = torch.cdist(shown, palette).argmin(dim=1)
    return list(BACKGROUND_COLOURS)[int(nearest.bincount().argmax())]


def _border(video: Tensor) -> Tensor:
    """Returns the pixels of the upper and lower edge [3, T, N]."""
    return torch.cat((video[:, :, :4].flatten(2), video[:, :, -4:].flatten(2)), dim=2)
