"""Says in English what a scene shows, in one of many ways."""

import math

from .scene import DIRECTIONS, Background, Scene, Thing
from .stream import Stream
from .words import (
    BACKGROUND_WORDS,
    CAMERA_WORDS,
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

_OPENINGS = ("", "", "", "", "a video of ", "an animation of ", "a short clip of ")
_SURFACES = ("background", "backdrop")


def caption(scene: Scene, stream: Stream) -> str:
    """Returns a caption; the stream chooses words, order, and what is left out."""
    if len(scene.things) == 1:
        text, whole = _one(scene.things[0], stream)
    else:
        text, whole = _two(scene.things, stream)
    surface = _surface(scene.background, stream) if stream.chance(0.6) else ""
    camera = stream.pick(CAMERA_WORDS[scene.camera.motion]) if _moves(scene) else ""
    if surface:
        text = _join(text, surface, stream)
    if camera:
        text = f"{text}, {camera}" if stream.chance(0.7) else f"{camera}: {text}"
    elif not whole:
        text = stream.pick(_OPENINGS) + text
    return _finish(text, stream)


def size(thing: Thing) -> str:
    """Returns "small", "large" or "": what a caption may say of an object's size."""
    if thing.motion in ("grow", "shrink"):
        return ""
    return "small" if thing.radius < 16 / 128 else "large" if thing.radius > 23 / 128 else ""


def pace(thing: Thing) -> str:
    """Returns "slow", "fast" or "": what a caption may say of an object's speed."""
    if thing.motion in DIRECTIONS:
        amount, slow, fast = math.hypot(thing.path.dx, thing.path.dy), 0.27, 0.42
    elif thing.motion == "rotate":
        amount, slow, fast = abs(thing.path.spin), math.radians(150), math.radians(220)
    else:
        return ""
    return "slow" if amount < slow else "fast" if amount > fast else ""


def sense(thing: Thing) -> int:
    """Returns 1 for an object that turns or circles clockwise, -1 for the other way, else 0."""
    if thing.motion == "rotate":
        return 1 if thing.path.spin > 0 else -1
    return thing.path.sense if thing.motion == "orbit" else 0


def _word(words: tuple[str, ...], stream: Stream) -> str:
    return words[0] if stream.chance(PLAIN) else stream.pick(words)


def _article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def _noun(thing: Thing, stream: Stream) -> str:
    """Returns "small red ball"."""
    words = [_word(COLOUR_WORDS[thing.colour], stream), _word(SHAPE_WORDS[thing.shape], stream)]
    if size(thing) and stream.chance(0.4):
        words.insert(0, stream.pick(SIZE_WORDS[size(thing)]))
    return " ".join(words)


def _action(thing: Thing, stream: Stream) -> str:
    """Returns what the object does, as a verb without an ending: "roll slowly to the left"."""
    motion, speed = thing.motion, _speed(thing, stream)
    if motion in DIRECTIONS:
        verbs = ROUND_VERBS if thing.shape in ("circle", "ring") else STRAIGHT_VERBS
        verb, where = _word(verbs, stream), _word(DIRECTION_WORDS[motion], stream)
        return f"{verb} {speed} {where}" if speed else f"{verb} {where}"
    action = _word(OTHER_MOTION_WORDS[motion], stream)
    if sense(thing) and stream.chance(0.3):
        action += f" {SPIN_WORDS[sense(thing)]}"
    return f"{action} {speed}" if speed else action


def _speed(thing: Thing, stream: Stream) -> str:
    """Returns an adverb in half of the cases in which one is due."""
    words = {"slow": SLOW_WORDS, "fast": FAST_WORDS}.get(pace(thing), ())
    return stream.pick(words) if words and stream.chance(0.5) else ""


def _one(thing: Thing, stream: Stream) -> tuple[str, bool]:
    """Returns a description of one object, and whether it can do without "a video of"."""
    noun, action = _noun(thing, stream), _action(thing, stream)
    form = stream.uniform()
    if form < 0.4:
        return f"{_article(noun)} {third_person(action)}", True
    if form < 0.6:
        return f"{_article(noun)} {gerund(action)}", False
    if form < 0.7:
        return f"{_article(noun)} that {third_person(action)}", False
    if form < 0.8:
        return f"{_article(noun)} is {gerund(action)}", True
    if form < 0.9:
        return f"{noun} {gerund(action)}", True
    return f"{noun}, {gerund(action)}", True


def _two(things: tuple[Thing, ...], stream: Stream) -> tuple[str, bool]:
    """Returns a description of two objects, and whether it can do without "a video of"."""
    first, second = things if stream.chance(0.5) else things[::-1]
    nouns = [_article(_noun(thing, stream)) for thing in (first, second)]
    actions = [_action(thing, stream) for thing in (first, second)]
    form = stream.uniform()
    if first.motion == second.motion and form < 0.5 and "clockwise" not in actions[0]:
        return f"{nouns[0]} and {nouns[1]} both {actions[0]}", True
    if form < 0.75:
        link = stream.pick((" and ", ", ", " while "))
        return link.join(
            f"{n} {third_person(a)}" for n, a in zip(nouns, actions, strict=True)
        ), True
    return " and ".join(f"{n} {gerund(a)}" for n, a in zip(nouns, actions, strict=True)), False


def _surface(background: Background, stream: Stream) -> str:
    """Returns "white background" or "striped brown and beige background"."""
    colours = [_word(BACKGROUND_WORDS[background.first], stream)]
    where = stream.pick(_SURFACES)
    if background.kind == "plain":
        return f"{stream.pick(('', '', 'plain '))}{colours[0]} {where}"
    colours.append(_word(BACKGROUND_WORDS[background.second], stream))
    both = " and ".join(colours)
    if background.kind == "gradient":
        return stream.pick((f"{both} gradient {where}", f"{where} blending {both}"))
    pattern = {"stripes": "striped", "checker": "checkered"}[background.kind]
    return stream.pick((f"{both} {pattern} {where}", f"{pattern} {where} in {both}"))


def _join(text: str, surface: str, stream: Stream) -> str:
    form = stream.uniform()
    if form < 0.5:
        return f"{text} {stream.pick(('on', 'over', 'in front of'))} {_article(surface)}"
    if form < 0.8:
        return f"{text}, {surface}"
    return f"on {_article(surface)}, {text}"


def _moves(scene: Scene) -> bool:
    return scene.camera.motion != "still"


def _finish(text: str, stream: Stream) -> str:
    """Writes it like a sentence, or not, as people do."""
    if stream.chance(0.3):
        text = text[0].upper() + text[1:]
    return text + "." if stream.chance(0.3) else text
