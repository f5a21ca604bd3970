"""Reads what the richer kinds of scenes are about: pace, sequence, order, camera, light."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..train_tiny.scenes import DIRECTIONS, Scene
from ..train_tiny.scenes.phrases import pace as said_pace
from .camera import read_camera
from .detect import Detected, detect
from .light import read_light, without_light
from .motion import Motion, name_motion
from .tracks import Track

SLOW_WAY, FAST_WAY = 0.30, 0.38
"""Sides of the frame: a straight motion below or above counts as slow or fast."""

SLOW_TURN, FAST_TURN = math.radians(170), math.radians(200)

SAME_LINE = 0.1
"""How far from the line of the one in front the one behind it may be, in sides of the frame."""


@dataclass(frozen=True)
class Reading:
    """What is found in a clip, for the score of a scene of a richer kind."""

    found: tuple[Detected, ...]
    camera: str
    """One of `scenes.CAMERAS`; read only if a scene's camera moves."""
    light: str
    """One of `scenes.LIGHTS`; read only if a scene's light changes."""


def read(video: Tensor, kind: str) -> Reading:
    """Reads a video [3, T, H, W] in [-1, 1] for the score of a scene of a kind."""
    light, camera = "steady", "still"
    if kind == "light":
        lighting = read_light(video)
        light, video = lighting.motion, without_light(video, lighting)
    if kind == "camera":
        camera = read_camera(video)
    return Reading(detect(video), camera, light)


def shows_kind(reading: Reading, scene: Scene, chosen: tuple[Detected, ...]) -> bool:
    """Tells whether a clip shows what the kind of its scene is about.

    Args:
        reading: of the clip.
        scene: what it must show.
        chosen: the objects found that are taken for the scene's, in their order.
    """
    match scene.kind:
        case "pace":
            return pace(chosen[0].motion) == said_pace(scene.things[0])
        case "sequence":
            wanted = (scene.things[0].motion, scene.things[0].then)
            return tuple(half.name for half in halves(chosen[0].track)) == wanted
        case "follow":
            return _follows(chosen[0].track, chosen[1].track, scene.things[0].motion)
        case "pass":
            return _pass(chosen[0].track, chosen[1].track, scene.things[0].motion)
        case "camera":
            return reading.camera == scene.camera.motion
        case "light":
            return reading.light == scene.light.motion
    return True


def pace(motion: Motion) -> str:
    """Returns "slow", "fast" or "", which is anything between and other motions than these."""
    if motion.name == "rotate":
        amount, slow, fast = abs(motion.turn), SLOW_TURN, FAST_TURN
    elif motion.name in DIRECTIONS:
        amount, slow, fast = math.hypot(*motion.way), SLOW_WAY, FAST_WAY
    else:
        return ""
    return "slow" if amount < slow else "fast" if amount > fast else ""


def halves(track: Track) -> tuple[Motion, Motion]:
    """Returns what an object does in each half of the time in which it is seen."""
    middle = (len(track.frames) + 1) // 2
    return _motion(track, slice(None, middle)), _motion(track, slice(-middle, None))


def _motion(track: Track, part: slice) -> Motion:
    frames, centre = track.frames[part], track.centre[part]
    return name_motion(frames, centre, track.radius[part], track.angle[part])


def _follows(front: Track, back: Track, motion: str) -> bool:
    """Tells whether one object is behind the other and on its line, all the time."""
    ahead, aside = _along(motion, *_together(front, back)).unbind(dim=1)
    return bool((ahead > 0).all() and (aside.abs() < SAME_LINE).all())


def _pass(first: Track, second: Track, motion: str) -> bool:
    """Tells whether the first object is behind the second at first, and ahead of it at last."""
    ahead = _along(motion, *_together(first, second))[:, 0]
    return bool(ahead[0] < 0 < ahead[-1])


def _together(first: Track, second: Track) -> tuple[Tensor, Tensor]:
    """Returns the places of two objects in the frames in which both are seen."""
    both = [torch.isin(a.frames, b.frames) for a, b in ((first, second), (second, first))]
    return first.centre[both[0]], second.centre[both[1]]


def _along(motion: str, first: Tensor, second: Tensor) -> Tensor:
    """Returns how far the first is ahead of the second, and how far aside of it, [T, 2]."""
    x, y = DIRECTIONS[motion]
    axes = first.new_tensor([[x, -y], [y, x]])
    return (first - second) @ axes
