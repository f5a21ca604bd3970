"""The phrases that captions are made of."""

import math
from collections.abc import Callable

from .scene import DIRECTIONS, PathPair, Thing
from .stream import Stream
from .words import (
    COLOUR_WORDS,
    DIRECTION_WORDS,
    FAST_WORDS,
    OTHER_MOTION_WORDS,
    ROUND_VERBS,
    SHAPE_WORDS,
    SIZE_WORDS,
    SLOW_WORDS,
    SPIN_WORDS,
    STRAIGHT_VERBS,
    gerund,
    third_person,
)

PLAIN = 0.6
"""Chance that the plainest word is taken where there are several."""

Inflection = Callable[[str], str]
"""`third_person` or `gerund`."""

Action = Callable[[Inflection], str]
"""What an object does, in a form of its verbs."""


def size(thing: Thing) -> str:
    """Returns "small", "large" or "": what a caption may say of an object's size."""
    if {thing.motion, thing.then} & {"grow", "shrink"}:
        return ""
    return "small" if thing.radius < 16 / 128 else "large" if thing.radius > 23 / 128 else ""


def pace(thing: Thing) -> str:
    """Returns "slow", "fast" or "": what a caption may say of an object's speed."""
    if isinstance(thing.path, PathPair):
        return ""
    if thing.motion in DIRECTIONS:
        amount, slow, fast = math.hypot(thing.path.dx, thing.path.dy), 0.27, 0.42
    elif thing.motion == "rotate":
        amount, slow, fast = abs(thing.path.spin), math.radians(150), math.radians(220)
    else:
        return ""
    return "slow" if amount < slow else "fast" if amount > fast else ""


def sense(thing: Thing) -> int:
    """Returns 1 for an object that turns or circles clockwise, -1 for the other way, else 0."""
    if isinstance(thing.path, PathPair):
        return 0
    if thing.motion == "rotate":
        return 1 if thing.path.spin > 0 else -1
    return thing.path.sense if thing.motion == "orbit" else 0


def pick_word(words: tuple[str, ...], stream: Stream) -> str:
    """Returns the plainest of some words in most cases."""
    return words[0] if stream.chance(PLAIN) else stream.pick(words)


def article(noun: str) -> str:
    """Returns "a ball" or "an orange ball"."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def noun_of(thing: Thing, stream: Stream) -> str:
    """Returns "small red ball"."""
    colour, shape = COLOUR_WORDS[thing.colour], SHAPE_WORDS[thing.shape]
    words = [pick_word(colour, stream), pick_word(shape, stream)]
    if size(thing) and stream.chance(0.4):
        words.insert(0, stream.pick(SIZE_WORDS[size(thing)]))
    return " ".join(words)


def verbs_of(thing: Thing) -> tuple[str, ...]:
    """Returns the verbs for straight motions."""
    return ROUND_VERBS if thing.shape in ("circle", "ring") else STRAIGHT_VERBS


def action_of(thing: Thing, stream: Stream, *, paced: float = 0.5) -> str:
    """Returns what the object does, as a verb without an ending: "roll slowly to the left".

    Args:
        thing: the object.
        stream: chooses words.
        paced: how often a speed that is slow or fast is spoken of.
    """
    motion, speed = thing.motion, _speed(thing, stream, paced)
    if motion in DIRECTIONS:
        verbs = verbs_of(thing)
        verb, where = pick_word(verbs, stream), pick_word(DIRECTION_WORDS[motion], stream)
        return f"{verb} {speed} {where}" if speed else f"{verb} {where}"
    action = pick_word(OTHER_MOTION_WORDS[motion], stream)
    if sense(thing) and stream.chance(0.3):
        action += f" {SPIN_WORDS[sense(thing)]}"
    return f"{action} {speed}" if speed else action


def _speed(thing: Thing, stream: Stream, paced: float) -> str:
    words = {"slow": SLOW_WORDS, "fast": FAST_WORDS}.get(pace(thing), ())
    return stream.pick(words) if words and stream.chance(paced) else ""


def sentence(noun: str, action: Action, stream: Stream) -> tuple[str, bool]:
    """Returns a description of one object, and whether it can do without "a video of"."""
    form = stream.uniform()
    if form < 0.4:
        return f"{article(noun)} {action(third_person)}", True
    if form < 0.6:
        return f"{article(noun)} {action(gerund)}", False
    if form < 0.7:
        return f"{article(noun)} that {action(third_person)}", False
    if form < 0.8:
        return f"{article(noun)} is {action(gerund)}", True
    if form < 0.9:
        return f"{noun} {action(gerund)}", True
    return f"{noun}, {action(gerund)}", True
