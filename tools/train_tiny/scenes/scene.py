"""What a clip shows: the full ground truth, without a pixel.

Lengths are in units of the frame's side, with the origin in the middle of the frame, x to the right
and y down. Angles are in radians, clockwise on the screen. Time u runs from 0 (first frame) to 1
(last frame), so the same scene can be rendered with any number of frames.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DIRECTIONS: dict[str, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "up left": (-1, -1),
    "up right": (1, -1),
    "down left": (-1, 1),
    "down right": (1, 1),
}
"""Straight motions and their signs in x and y."""

MOTIONS = ("still", *DIRECTIONS, "rotate", "grow", "shrink", "bounce", "orbit")

CAMERAS = ("still", "left", "right", "up", "down", "in", "out")
"""Pans name where the camera goes, so the image moves the other way; in and out are zooms."""

BACKGROUNDS = ("plain", "gradient", "stripes", "checker")

LIGHTS = ("steady", "darker", "brighter", "warm", "cold")
"""What the light of a scene does: it gets darker or brighter, or turns warm or cold."""

KINDS = ("simple", "pace", "sequence", "follow", "pass", "camera", "light")
"""What a clip is about. Of all but "simple", captions always say that, and the score asks for it:
how fast an object moves, what it does first and then, one object behind another, two that pass
each other, where the camera goes, and what the light does."""

HOPS = 2
"""Jumps of a bouncing object in one clip."""


@dataclass(frozen=True)
class Outline:
    """A shape of circumradius 1: corners on the circle, straight lines to inner corners between.

    In polar coordinates folded into half a sector, 0 <= a <= pi / folds, the outline is the one
    line r cos(a - normal) = distance. folds = 0 stands for the circle r = 1.
    """

    folds: int
    inner: float = 1.0
    """Radius of the inner corners; cos(pi / folds) makes a regular polygon."""
    hole: float = 0.0
    """Radius of a round hole."""
    upright: float = 0.0
    """Angle of one corner when the shape stands as people draw it."""
    reach: float = 1.0
    """Circumradius per nominal radius: thin shapes are drawn a little larger."""

    @property
    def normal(self) -> float:
        """Direction of the line's normal."""
        if not self.folds:
            return 0.0
        half = math.pi / self.folds
        return math.atan((1 / self.inner - math.cos(half)) / math.sin(half))

    @property
    def distance(self) -> float:
        """Distance of the line from the centre."""
        return math.cos(self.normal)

    @property
    def period(self) -> float:
        """Angle after which the shape looks the same; a full turn for the circle."""
        return 2 * math.pi / max(1, self.folds)


SHAPES: dict[str, Outline] = {
    "circle": Outline(0),
    "square": Outline(4, math.cos(math.pi / 4), upright=math.pi / 4, reach=1.05),
    "triangle": Outline(3, math.cos(math.pi / 3), upright=-math.pi / 2, reach=1.1),
    "star": Outline(5, 0.45, upright=-math.pi / 2, reach=1.1),
    "ring": Outline(0, hole=0.55),
}

SPINNABLE = ("square", "triangle", "star")
"""Shapes on which a rotation can be seen."""


@dataclass(frozen=True)
class Path:
    """How an object moves over the clip; the sum of all its parts."""

    dx: float = 0.0
    """Way to the right."""
    dy: float = 0.0
    """Way down."""
    hop: float = 0.0
    """Height of each of the `HOPS` jumps."""
    orbit: float = 0.0
    """Radius of one round."""
    start: float = 0.0
    """Angle on the round at u = 0."""
    sense: int = 1
    """1: the round goes clockwise. -1: the other way."""
    spin: float = 0.0
    """Angle by which the object turns."""
    growth: float = 1.0
    """Last size divided by first size."""

    def size(self, u: Array) -> Array:
        """Returns size at times u [T] divided by first size."""
        return self.growth**u

    def turned(self, u: Array) -> Array:
        """Returns by how much the object has turned at times u [T]."""
        return self.spin * u

    def offset(self, u: Array) -> Array:
        """Returns how far the object is from its base at times u [T], as x, y [2, T]."""
        angle = self.start + self.sense * 2 * math.pi * u
        around = self.orbit * np.stack([np.cos(angle), np.sin(angle)])
        height = self.hop * np.abs(np.sin(HOPS * math.pi * u))
        return np.stack([self.dx * u, self.dy * u - height]) + around


@dataclass(frozen=True)
class PathPair:
    """Two motions, one in each half of the clip. Orbits do not begin at their base: not these."""

    first: Path
    second: Path

    def size(self, u: Array) -> Array:
        """See `Path`."""
        early, late = _halves(u)
        return self.first.size(early) * self.second.size(late)

    def turned(self, u: Array) -> Array:
        """See `Path`."""
        early, late = _halves(u)
        return self.first.turned(early) + self.second.turned(late)

    def offset(self, u: Array) -> Array:
        """See `Path`."""
        early, late = _halves(u)
        return self.first.offset(early) + self.second.offset(late)


def _halves(u: Array) -> tuple[Array, Array]:
    """Returns the times of both halves of a clip, each from 0 to 1."""
    return np.clip(2 * u, 0, 1), np.clip(2 * u - 1, 0, 1)


@dataclass(frozen=True)
class Thing:
    """One object of a scene."""

    colour: str
    shape: str
    motion: str
    path: Path | PathPair
    x: float
    y: float
    radius: float
    """Circumradius at u = 0."""
    angle: float
    """Angle of one corner at u = 0."""
    then: str = ""
    """Motion in the second half of a clip, where it is another one."""


@dataclass(frozen=True)
class Background:
    """One colour, or two that blend into each other by a pattern."""

    kind: str
    first: str
    second: str
    angle: float = 0.0
    wavelength: float = 1.0
    phase: float = 0.0


@dataclass(frozen=True)
class Camera:
    """A steady pan or zoom."""

    motion: str = "still"
    amount: float = 0.0
    """Way of a pan; of a zoom the logarithm of the factor over the clip, always positive."""

    def shift(self, u: Array) -> Array:
        """Returns where the camera looks at times u [T], as x, y [2, T]."""
        x, y = DIRECTIONS.get(self.motion, (0, 0))
        return self.amount * np.stack([x * u, y * u])

    def scale(self, u: Array) -> Array:
        """Returns the magnification at times u [T]."""
        sign = {"in": 1, "out": -1}.get(self.motion, 0)
        return np.exp(sign * self.amount * u)


@dataclass(frozen=True)
class Light:
    """A steady change of the light: all colours are multiplied by it."""

    motion: str = "steady"
    first: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Of red, green and blue in sRGB, at u = 0."""
    last: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """At u = 1."""

    def gain(self, u: Array) -> Array:
        """Returns the factors at times u [T], as [3, T]."""
        first, last = np.array(self.first)[:, None], np.array(self.last)[:, None]
        return first + (last - first) * u


@dataclass(frozen=True)
class Scene:
    """Everything there is to know about a clip."""

    things: tuple[Thing, ...]
    """Of the kind "follow", the one in front comes first."""
    background: Background
    camera: Camera = Camera()
    light: Light = Light()
    kind: str = "simple"


def times(frames: int) -> Array:
    """Returns the time u of every frame, [T]."""
    return np.linspace(0.0, 1.0, frames) if frames > 1 else np.zeros(1)


def track(thing: Thing, camera: Camera, u: Array) -> Array:
    """Returns what is seen of an object at times u [T]: x, y, circumradius and angle, [T, 4]."""
    scale = camera.scale(u)
    x, y = (np.array([[thing.x], [thing.y]]) + thing.path.offset(u) - camera.shift(u)) * scale
    radius = thing.radius * thing.path.size(u) * scale
    return np.stack([x, y, radius, thing.angle + thing.path.turned(u)], axis=1)
