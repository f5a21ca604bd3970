"""Draws scenes: `sample_scene(seed, index)` is the same scene for ever."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from .palette import BACKGROUND_COLOURS, OBJECT_COLOURS, contrast
from .scene import (
    BACKGROUNDS,
    CAMERAS,
    DIRECTIONS,
    MOTIONS,
    SHAPES,
    SPINNABLE,
    Background,
    Camera,
    Path,
    PathPair,
    Scene,
    Thing,
    times,
    track,
)
from .stream import Stream

SPLITS = ("train", "val", "novel")
"""train; val: other scenes of the same kinds; novel: combinations that train never shows."""

TWO_OBJECTS = 0.15
"""Share of scenes with two objects."""

MOVING_CAMERA = 0.12
"""Share of scenes in which the camera moves."""

RADIUS = (14 / 128, 25 / 128)
"""Nominal radius. With the outlines' reach, objects are 28 to 56 pixels wide at 128 x 128."""

PATTERNS = 0.35
"""Share of backgrounds that are not plain, where the camera does not move."""

EDGE = 2 / 128
"""Space that is always left between an object and the edge of the frame."""

CONTRAST = 0.15
"""Least Oklab distance of an object's colour to every colour of the background."""

CAMERA_MOTIONS = ("still", "rotate", "bounce")
"""What objects do while the camera moves; else both motions could cancel out."""

HARD_SHAPES = (*SHAPES, "star", "star", "star")
HARD_MOTIONS = (*MOTIONS, "rotate", "rotate", "orbit", "orbit")
"""What hard scenes are drawn from; a name that is there twice comes twice as often."""


def is_novel(colour: str, shape: str, motion: str) -> bool:
    """Tells whether a combination is held out of the training split; one in ten is."""
    return Stream("novel", colour, shape, motion).chance(0.1)


def sample_scene(
    seed: int,
    index: int,
    split: str = "train",
    *,
    objects: int | None = None,
    camera: bool = True,
    shapes: Sequence[str] = tuple(SHAPES),
    motions: Sequence[str] = MOTIONS,
) -> Scene:
    """Returns a scene that depends on the arguments only.

    Args:
        seed: names the data set.
        index: names the clip.
        split: one of `SPLITS`.
        objects: 1 or 2; None draws it.
        camera: False keeps the camera still.
        shapes: what all but rotating objects are drawn from.
        motions: what objects do while the camera is still.
    """
    stream = Stream(seed, split, index)
    two = stream.chance(TWO_OBJECTS) if objects is None else objects == 2
    moves = camera and stream.chance(MOVING_CAMERA)
    view = make_camera(stream, stream.pick(CAMERAS[1:])) if moves else Camera()
    motions = CAMERA_MOTIONS if moves else motions
    things = [_thing(stream, view, motions, split, shapes)]
    while two:
        things = [_thing(stream, view, motions, split, shapes, crowded=True) for _ in range(2)]
        if things[0].colour != things[1].colour and _apart(things, view):
            break
    background = make_background(stream, tuple(thing.colour for thing in things), patterned=moves)
    return Scene(tuple(things), background, view)


def sample_hard_scene(seed: int, index: int, split: str = "train") -> Scene:
    """Returns a simple scene; in training what models get wrong comes more often.

    Half of the objects that do not rotate are stars, and every third one rotates or orbits. Other
    splits are those of simple scenes, so that losses on them can be compared.

    Args:
        seed: names the data set.
        index: names the clip.
        split: one of `SPLITS`.
    """
    if split != "train":
        return sample_scene(seed, index, split)
    return sample_scene(seed, index, split, shapes=HARD_SHAPES, motions=HARD_MOTIONS)


def make_thing(
    stream: Stream, colour: str, shape: str, motion: str, camera: Camera, *, crowded: bool = False
) -> Thing:
    """Returns an object at a random place from where it stays in the frame.

    Args:
        stream: gives the random numbers.
        colour: a key of `OBJECT_COLOURS`.
        shape: a key of `SHAPES`; one of `SPINNABLE` for the motion "rotate".
        motion: one of `MOTIONS`.
        camera: its motion is allowed for.
        crowded: keep it small, to leave room for another object.
    """
    path = _path(stream, motion)
    x, y, radius, angle = place(stream, shape, path, camera, crowded=crowded)
    return Thing(colour, shape, motion, path, x, y, radius, angle)


def place(
    stream: Stream, shape: str, path: Path | PathPair, camera: Camera, *, crowded: bool = False
) -> tuple[float, float, float, float]:
    """Returns x, y, radius and angle from where an object stays in the frame; see `make_thing`."""
    u = times(9)
    sizes = path.size(u) * camera.scale(u)
    low, high = RADIUS[0] / sizes.min(), RADIUS[1] / sizes.max()
    outline = SHAPES[shape]
    radius = outline.reach * stream.uniform(low, low + 0.3 * (high - low) if crowded else high)
    # The base may lie where base + offset, magnified, keeps the whole object in the frame.
    room = 0.5 / camera.scale(u) - radius * path.size(u) - EDGE
    offset = path.offset(u) - camera.shift(u)
    lowest, highest = (-room - offset).max(axis=1), (room - offset).min(axis=1)
    x, y = (stream.uniform(*sorted(limits)) for limits in zip(lowest, highest, strict=True))
    return x, y, radius, outline.upright + math.radians(stream.uniform(-8, 8))


def _thing(
    stream: Stream,
    camera: Camera,
    motions: Sequence[str],
    split: str,
    shapes: Sequence[str],
    crowded: bool = False,
) -> Thing:
    """Returns an object whose colour, shape and motion belong to the split."""
    colour, shape, motion = pick_combination(stream, motions, split, shapes)
    return make_thing(stream, colour, shape, motion, camera, crowded=crowded)


def pick_combination(
    stream: Stream, motions: Sequence[str], split: str, shapes: Sequence[str] = tuple(SHAPES)
) -> tuple[str, str, str]:
    """Returns a colour, one of the shapes and one of the motions that belong to the split."""
    while True:
        motion = stream.pick(motions)
        shape = stream.pick(SPINNABLE if motion == "rotate" else shapes)
        colour = stream.pick(tuple(OBJECT_COLOURS))
        if is_novel(colour, shape, motion) == (split == "novel"):
            return colour, shape, motion


def _path(stream: Stream, motion: str) -> Path:
    """Returns a motion large enough to be measured: 24 pixels at least at 128 x 128."""
    if motion in DIRECTIONS:
        x, y = DIRECTIONS[motion]
        way = stream.uniform(0.2, 0.4 if x and y else 0.48)
        return Path(dx=x * way, dy=y * way)
    if motion == "rotate":
        return Path(spin=stream.sign() * math.radians(stream.uniform(110, 260)))
    if motion in ("grow", "shrink"):
        factor = stream.uniform(1.55, 1.75)
        return Path(growth=factor if motion == "grow" else 1 / factor)
    if motion == "bounce":
        return Path(hop=stream.uniform(0.2, 0.36))
    if motion == "orbit":
        start = stream.uniform(-math.pi, math.pi)
        return Path(orbit=stream.uniform(0.15, 0.24), start=start, sense=stream.sign())
    return Path()


def make_camera(stream: Stream, motion: str) -> Camera:
    """Returns a pan or zoom that is large enough to be seen."""
    if motion in ("in", "out"):
        return Camera(motion, math.log(stream.uniform(1.4, 1.65)))
    return Camera(motion, stream.uniform(0.2, 0.4))


def _apart(things: list[Thing], camera: Camera) -> bool:
    """Tells whether two objects never come closer than three pixels at 128 x 128."""
    first, second = (track(thing, camera, times(9)) for thing in things)
    gap = np.hypot(*(first - second).T[:2]) - first[:, 2] - second[:, 2]
    return bool(gap.min() > 3 / 128)


def make_background(stream: Stream, colours: tuple[str, ...], *, patterned: bool) -> Background:
    """Returns a background from which every object stands out; patterned shows a moving camera."""
    kind = stream.pick(BACKGROUNDS[1:]) if patterned or stream.chance(PATTERNS) else "plain"
    first, second = stream.pick(suitable_backgrounds(colours, kind == "plain"))
    angle = stream.pick((0.0, 0.25, 0.5, 0.75)) if kind == "stripes" else stream.uniform(-0.1, 0.1)
    if kind == "gradient":
        angle = stream.uniform(-1, 1)
    wavelength, phase = stream.uniform(0.25, 0.5), stream.uniform(0, 2 * math.pi)
    return Background(kind, first, second, math.pi * angle, wavelength, phase)


@cache
def suitable_backgrounds(colours: tuple[str, ...], plain: bool) -> list[tuple[str, str]]:
    """Returns the pairs of background colours that go with the objects' colours."""
    names = tuple(BACKGROUND_COLOURS)
    pairs = [(a, b) for a in names for b in names if (a == b) == plain]
    return [pair for pair in pairs if all(_stands_out(colour, *pair) for colour in colours)]


@cache
def _stands_out(colour: str, first: str, second: str) -> bool:
    a, b = BACKGROUND_COLOURS[first], BACKGROUND_COLOURS[second]
    if first != second and not 0.06 < contrast(a, b) < 0.5:
        return False
    return contrast(OBJECT_COLOURS[colour], a, b) >= CONTRAST
