"""Compares what a video shows with what it must show."""

from dataclasses import dataclass, replace
from itertools import permutations

import torch
from torch import Tensor

from ..train_tiny.scenes import RichPrompt, Scene
from .detect import Detected
from .expect import Expected, Target, expect
from .rich import read, shows_kind


@dataclass(frozen=True)
class Score:
    """What is right in a video. With two objects, both must be right."""

    colour_ok: bool
    shape_ok: bool
    motion_ok: bool
    count_ok: bool
    found: tuple[Detected, ...] = ()
    kind_ok: bool = True
    """Whether it shows what a scene of a richer kind is about; see `scenes.KINDS`."""

    @property
    def ok(self) -> bool:
        """Whether everything is right."""
        return (
            self.colour_ok and self.shape_ok and self.motion_ok and self.count_ok and self.kind_ok
        )


def score(video: Tensor, target: Target) -> Score:
    """Scores a video.

    Args:
        video: in [-1, 1], square and of even size, [3, T, H, W].
        target: a scene, a scoring prompt, or a prompt in the words of the captions.

    Raises:
        PromptError: the prompt names no object that can be scored.
    """
    if isinstance(target, RichPrompt):
        target = target.scene
    kind = target.kind if isinstance(target, Scene) else "simple"
    reading, expected = read(video, kind), expect(target)
    result = compare(reading.found, expected)
    if not isinstance(target, Scene) or len(reading.found) < len(expected):
        return replace(result, kind_ok=kind == "simple")
    chosen = assign(reading.found, expected)
    return replace(result, kind_ok=shows_kind(reading, target, chosen))


def compare(found: tuple[Detected, ...], expected: tuple[Expected, ...]) -> Score:
    """Assigns the objects found to those expected as well as possible, and compares them."""
    if len(found) < len(expected):
        return Score(False, False, False, False, found)
    count_ok = len(found) == len(expected)
    best = _matches(assign(found, expected), expected)
    colour_ok, shape_ok, motion_ok = (all(column) for column in zip(*best, strict=True))
    return Score(colour_ok, shape_ok, motion_ok, count_ok, found)


def assign(found: tuple[Detected, ...], expected: tuple[Expected, ...]) -> tuple[Detected, ...]:
    """Returns as many of the objects found as are expected, each as like its own as possible."""
    return max(
        permutations(found, len(expected)),
        key=lambda chosen: sum(map(sum, _matches(chosen, expected))),
    )


def _matches(
    chosen: tuple[Detected, ...], expected: tuple[Expected, ...]
) -> list[tuple[bool, bool, bool]]:
    return [_match(item, wanted) for item, wanted in zip(chosen, expected, strict=True)]


def _match(item: Detected, wanted: Expected) -> tuple[bool, bool, bool]:
    """Tells whether colour, shape and motion of an object are as wanted."""
    return (
        wanted.colour in (None, item.colour),
        wanted.shape in (None, item.shape),
        wanted.motion in (None, item.motion.name),
    )


def psnr(video: Tensor, reference: Tensor) -> float:
    """Returns the peak signal-to-noise ratio of values in [-1, 1], in dB; infinite if equal."""
    error = (video.float().clamp(-1, 1) - reference.float().clamp(-1, 1)).square().mean()
    return float(10 * torch.log10(4 / error))


def first_frame_psnr(video: Tensor, image: Tensor) -> float:
    """Returns the PSNR in dB of a video's frame 0 [..., 3, T, H, W] to an image [..., 3, H, W]."""
    return psnr(video[..., 0, :, :], image)
