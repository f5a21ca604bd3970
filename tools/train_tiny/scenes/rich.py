"""Draws scenes of every kind: half of them simple, the others about one thing more each.

`sample_rich_scene(seed, index)` is the same scene for ever.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import numpy as np

from .palette import BACKGROUND_COLOURS, OBJECT_COLOURS, contrast
from .sample import (
    CAMERA_MOTIONS,
    EDGE,
    RADIUS,
    is_novel,
    make_background,
    make_camera,
    make_thing,
    pick_combination,
    place,
    sample_hard_scene,
    sample_scene,
    suitable_backgrounds,
)
from .scene import (
    CAMERAS,
    DIRECTIONS,
    LIGHTS,
    MOTIONS,
    SHAPES,
    SPINNABLE,
    Background,
    Camera,
    Light,
    Path,
    PathPair,
    Scene,
    Thing,
    times,
    track,
)
from .stream import Stream

SHARES = {
    "simple": 0.5,
    "pace": 0.1,
    "sequence": 0.12,
    "follow": 0.07,
    "pass": 0.07,
    "camera": 0.07,
    "light": 0.07,
}
"""Of each kind of scene."""

WAYS = {"slow": (0.15, 0.24), "fast": (0.46, 0.6)}
"""Of slow and fast straight motions; along each axis a diagonal's are shorter."""

TURNS_DEG = {"slow": (100, 140), "fast": (230, 300)}

STRAIGHT = ("left", "right", "up", "down")

SEQUENCE_MOTIONS = (*STRAIGHT, "rotate", "grow", "shrink", "still")

LEAST_PATTERN = 0.12
"""Oklab distance of a pattern's colours by which a camera's motion is seen."""

LIT_COLOURS = ("white", "grey", "light grey", "beige", "lavender", "mint")
"""Of backgrounds on which a change of the light is seen."""

GAP = 5 / 128
"""Least space between two objects that belong together."""


def sample_rich_scene(
    seed: int, index: int, split: str = "train", *, kind: str | None = None
) -> Scene:
    """Returns a scene that depends on the arguments only.

    Args:
        seed: names the data set.
        index: names the clip.
        split: one of `sample.SPLITS`.
        kind: one of `scene.KINDS`; None draws it.
    """
    stream = Stream(seed, "rich", split, index)
    drawn = _drawn(stream)
    kind = kind or drawn
    if kind == "simple":
        return sample_scene(seed, index, split)
    return replace(_MAKERS[kind](stream, split), kind=kind)


def _drawn(stream: Stream) -> str:
    left = stream.uniform()
    for kind, share in SHARES.items():
        left -= share
        if left < 0:
            return kind
    return "simple"


def _pace(stream: Stream, split: str) -> Scene:
    colour, shape, motion = pick_combination(stream, (*DIRECTIONS, "rotate"), split)
    thing = paced_thing(stream, colour, shape, motion, stream.pick(tuple(WAYS)))
    return Scene((thing,), make_background(stream, (colour,), patterned=False))


def paced_thing(stream: Stream, colour: str, shape: str, motion: str, pace: str) -> Thing:
    """Returns an object that moves straight on or rotates, slowly or fast.

    Args:
        stream: gives the random numbers.
        colour: a key of `OBJECT_COLOURS`.
        shape: a key of `SHAPES`.
        motion: "rotate" or a key of `DIRECTIONS`.
        pace: "slow" or "fast".
    """
    if motion == "rotate":
        path = Path(spin=stream.sign() * math.radians(stream.uniform(*TURNS_DEG[pace])))
    else:
        path = _straight(motion, stream.uniform(*WAYS[pace]))
    return Thing(colour, shape, motion, path, *place(stream, shape, path, Camera(), crowded=True))


def _sequence(stream: Stream, split: str) -> Scene:
    while True:
        first, second = (stream.pick(SEQUENCE_MOTIONS) for _ in range(2))
        shape = stream.pick(SPINNABLE if "rotate" in (first, second) else tuple(SHAPES))
        colour = stream.pick(tuple(OBJECT_COLOURS))
        novel = any(is_novel(colour, shape, motion) for motion in (first, second))
        if first != second and novel == (split == "novel"):
            break
    thing = sequence_thing(stream, colour, shape, first, second)
    return Scene((thing,), make_background(stream, (colour,), patterned=False))


def sequence_thing(stream: Stream, colour: str, shape: str, first: str, second: str) -> Thing:
    """Returns an object with two different ones of `SEQUENCE_MOTIONS`, one after the other."""
    path = PathPair(_half(stream, first), _half(stream, second))
    where = place(stream, shape, path, Camera(), crowded=True)
    return Thing(colour, shape, first, path, *where, then=second)


def _half(stream: Stream, motion: str) -> Path:
    """Returns what an object does in half a clip."""
    if motion in STRAIGHT:
        return _straight(motion, stream.uniform(0.2, 0.34))
    if motion == "rotate":
        return Path(spin=stream.sign() * math.radians(stream.uniform(110, 180)))
    if motion in ("grow", "shrink"):
        factor = stream.uniform(1.45, 1.6)
        return Path(growth=factor if motion == "grow" else 1 / factor)
    return Path()


def _straight(motion: str, way: float) -> Path:
    x, y = DIRECTIONS[motion]
    way = way / math.hypot(x, y)
    return Path(dx=x * way, dy=y * way)


def _together(kind: str, stream: Stream, split: str) -> Scene:
    motion = stream.pick(STRAIGHT)
    while True:
        looks = [pick_combination(stream, (one,), split)[:2] for one in _motions(kind, motion)]
        if looks[0][0] != looks[1][0]:
            return two_things(stream, kind, motion, (looks[0], looks[1]))


def _motions(kind: str, motion: str) -> tuple[str, str]:
    """Returns those of two objects that belong together, of which the first one's is given."""
    return motion, motion if kind == "follow" else opposite(motion)


def opposite(motion: str) -> str:
    """Returns "left" for "right"."""
    x, y = DIRECTIONS[motion]
    return next(name for name, signs in DIRECTIONS.items() if signs == (-x, -y))


def two_things(
    stream: Stream, kind: str, motion: str, looks: tuple[tuple[str, str], tuple[str, str]]
) -> Scene:
    """Returns two objects that belong together.

    Args:
        stream: gives the random numbers.
        kind: "follow" or "pass".
        motion: of the first, one of `STRAIGHT`; of those that pass, the second's is the opposite.
        looks: colour and shape of both; of those that follow, the first is in front.
    """
    reaches = [SHAPES[shape].reach for _, shape in looks]
    radii = [reach * stream.uniform(RADIUS[0], RADIUS[0] + 0.02) for reach in reaches]
    apart = sum(radii) + stream.uniform(GAP, 2 * GAP)
    rooms = [0.5 - radius - EDGE for radius in radii]
    # Along the way of the first one, and across it; each from -0.5 to 0.5.
    if kind == "follow":
        way = stream.uniform(0.2, 0.29)
        front = stream.uniform(apart - rooms[1], rooms[0] - way)
        across = stream.uniform(-min(rooms), min(rooms))
        bases, ways = ((front, across), (front - apart, across)), (way, way)
    else:
        ways = stream.uniform(0.36, 0.5), stream.uniform(0.36, 0.5)
        starts = [-way / 2 + stream.uniform(-0.03, 0.03) for way in ways]
        side = stream.sign()
        middle = stream.uniform(-1, 1) * (min(rooms) - apart / 2)
        bases = (
            (starts[0], middle + side * apart / 2),
            (-starts[1], middle - side * apart / 2),
        )
    x, y = DIRECTIONS[motion]
    things = tuple(
        Thing(
            *look,
            own,
            _straight(own, way),
            along * x - across * y,
            along * y + across * x,
            radius,
            SHAPES[look[1]].upright + math.radians(stream.uniform(-8, 8)),
        )
        for look, own, way, (along, across), radius in zip(
            looks, _motions(kind, motion), ways, bases, radii, strict=True
        )
    )
    colours = tuple(colour for colour, _ in looks)
    return Scene(things, make_background(stream, colours, patterned=False), kind=kind)


def _moving_camera(stream: Stream, split: str) -> Scene:
    colour, shape, motion = pick_combination(stream, CAMERA_MOTIONS, split)
    return camera_scene(stream, colour, shape, motion, stream.pick(CAMERAS[1:]))


def camera_scene(stream: Stream, colour: str, shape: str, motion: str, camera: str) -> Scene:
    """Returns an object before a background on which every motion of the camera is seen.

    Args:
        stream: gives the random numbers.
        colour: a key of `OBJECT_COLOURS`.
        shape: a key of `SHAPES`.
        motion: one of `CAMERA_MOTIONS`.
        camera: one of `CAMERAS`, not "still".
    """
    while True:
        view = make_camera(stream, camera)
        thing = make_thing(stream, colour, shape, motion, view, crowded=True)
        x, y, radius, _ = track(thing, view, times(9)).T
        if (np.maximum(abs(x), abs(y)) + radius).max() < 0.5 - EDGE / 2:
            break
    pairs = _patterns(colour)
    pattern = stream.pick(("checker", "checker", "stripes"))
    # Stripes along the camera's way would not show it, and of diagonal ones nobody could tell a
    # way to the side from one up or down.
    across = 0.5 if camera in ("up", "down") else 0.0
    turned = across if pattern == "stripes" else stream.uniform(-0.1, 0.1)
    waves = stream.uniform(0.25, 0.5), stream.uniform(0, 2 * math.pi)
    background = Background(pattern, *stream.pick(pairs), math.pi * turned, *waves)
    return Scene((thing,), background, view)


@cache
def _patterns(colour: str) -> list[tuple[str, str]]:
    """Returns the pairs of background colours that show a camera's motion behind an object."""
    return [
        (first, second)
        for first, second in suitable_backgrounds((colour,), plain=False)
        if contrast(BACKGROUND_COLOURS[first], BACKGROUND_COLOURS[second]) > LEAST_PATTERN
    ]


def _changing_light(stream: Stream, split: str) -> Scene:
    colour, shape, motion = pick_combination(stream, MOTIONS, split)
    return light_scene(stream, colour, shape, motion, stream.pick(LIGHTS[1:]))


def light_scene(stream: Stream, colour: str, shape: str, motion: str, light: str) -> Scene:
    """Returns an object in changing light, before a background on which that is seen.

    Args:
        stream: gives the random numbers.
        colour: a key of `OBJECT_COLOURS`.
        shape: a key of `SHAPES`.
        motion: one of `MOTIONS`.
        light: one of `LIGHTS`, not "steady".
    """
    thing = make_thing(stream, colour, shape, motion, Camera())
    plain = stream.chance(0.7)
    pairs = [
        pair
        for pair in suitable_backgrounds((colour,), plain=plain)
        if all(name in LIT_COLOURS for name in pair)
    ]
    kind, angle = ("plain", 0.0) if plain else ("gradient", math.pi * stream.uniform(-1, 1))
    background = Background(kind, *stream.pick(pairs), angle)
    return Scene((thing,), background, light=_light(stream, light))


def _light(stream: Stream, motion: str) -> Light:
    amount = stream.uniform(0.9, 1.1)
    part = 0.45 * amount
    if motion == "darker":
        return Light(motion, last=(part, part, part))
    if motion == "brighter":
        return Light(motion, first=(part, part, part))
    part = 0.5 * amount
    return Light(motion, last=(1.0, 0.8, part) if motion == "warm" else (part, 0.8, 1.0))


_MAKERS: dict[str, Callable[[Stream, str], Scene]] = {
    "pace": _pace,
    "sequence": _sequence,
    "follow": partial(_together, "follow"),
    "pass": partial(_together, "pass"),
    "camera": _moving_camera,
    "light": _changing_light,
}

SAMPLERS: dict[str, Callable[[int, int, str], Scene]] = {
    "simple": sample_scene,
    "hard": sample_hard_scene,
    "rich": sample_rich_scene,
}
"""What clips may be drawn from, by name."""
