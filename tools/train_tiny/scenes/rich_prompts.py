"""The fixed prompts by which a model is scored that was trained on the richer kinds of scenes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

from .palette import OBJECT_COLOURS
from .phrases import article
from .rich import (
    STRAIGHT,
    camera_scene,
    light_scene,
    opposite,
    paced_thing,
    sequence_thing,
    two_things,
)
from .rich_words import FOLLOW_WORDS, LIGHT_WORDS
from .sample import suitable_backgrounds
from .scene import CAMERAS, LIGHTS, SHAPES, SPINNABLE, Background, Scene, Thing
from .stream import Stream
from .words import (
    CAMERA_WORDS,
    DIRECTION_WORDS,
    FAST_WORDS,
    OTHER_MOTION_WORDS,
    SLOW_WORDS,
    third_person,
)

_QUIET = ("light grey", "dark grey", "grey", "white", "black")
"""Backgrounds of prompts that do not name one; the first that suits."""

_SEQUENCES = (
    ("right", "up"),
    ("left", "down"),
    ("up", "left"),
    ("down", "right"),
    ("right", "still"),
    ("still", "left"),
    ("up", "grow"),
    ("grow", "right"),
    ("shrink", "grow"),
    ("rotate", "down"),
    ("left", "rotate"),
    ("down", "shrink"),
)


@dataclass(frozen=True)
class RichPrompt:
    """A prompt, and a scene that it describes, whose frame 0 serves as the image of I2V."""

    text: str
    scene: Scene


def rich_prompts() -> tuple[RichPrompt, ...]:
    """Returns 56 prompts of the six kinds, colours and shapes evenly spread."""
    looks = _Looks()
    return tuple(
        prompt for make in (_pace, _sequence, _pairs, _camera, _light) for prompt in make(looks)
    )


class _Looks:
    """Colours and shapes in turn."""

    def __init__(self) -> None:
        self.numbers = count()

    def next(self, *, spins: bool = False) -> tuple[str, str]:
        """Returns a colour and a shape, of which a rotation can be seen if it spins."""
        number = next(self.numbers)
        shapes = SPINNABLE if spins else tuple(SHAPES)
        colours = tuple(OBJECT_COLOURS)
        return colours[number % len(colours)], shapes[(number + number // 10) % len(shapes)]


def _stream(text: str) -> Stream:
    return Stream("rich prompt", text)


def _quiet(kind: str, *things: Thing) -> Scene:
    colours = tuple(thing.colour for thing in things)
    suitable = {first for first, _ in suitable_backgrounds(colours, plain=True)}
    name = next(name for name in (*_QUIET, *sorted(suitable)) if name in suitable)
    return Scene(things, Background("plain", name, name), kind=kind)


def _named(look: tuple[str, str]) -> str:
    return article(" ".join(look))


def _does(motion: str) -> str:
    if motion in DIRECTION_WORDS:
        return third_person(f"move {DIRECTION_WORDS[motion][0]}")
    return third_person(OTHER_MOTION_WORDS[motion][0])


def _pace(looks: _Looks) -> Iterator[RichPrompt]:
    for motion in ("left", "right", "up", "rotate"):
        for pace, words in (("slow", SLOW_WORDS), ("fast", FAST_WORDS)):
            look = looks.next(spins=motion == "rotate")
            action = "rotates" if motion == "rotate" else "moves"
            where = "" if motion == "rotate" else f" {DIRECTION_WORDS[motion][1]}"
            text = f"{_named(look)} {action} {words[0]}{where}"
            thing = paced_thing(_stream(text), *look, motion, pace)
            yield RichPrompt(text, _quiet("pace", thing))


def _sequence(looks: _Looks) -> Iterator[RichPrompt]:
    for first, second in _SEQUENCES:
        look = looks.next(spins="rotate" in (first, second))
        straight = first in STRAIGHT and second in STRAIGHT
        then = DIRECTION_WORDS[second][0] if straight else _does(second)
        text = f"{_named(look)} {_does(first)}, then {then}"
        thing = sequence_thing(_stream(text), *look, first, second)
        yield RichPrompt(text, _quiet("sequence", thing))


def _pairs(looks: _Looks) -> Iterator[RichPrompt]:
    for kind in ("follow", "pass"):
        for motion in (*STRAIGHT, *map(opposite, STRAIGHT)):
            first, second = looks.next(), looks.next()
            if kind == "follow":
                verb, where = third_person(FOLLOW_WORDS[0]), DIRECTION_WORDS[motion][1]
                text = f"{_named(second)} {verb} {_named(first)} {where}"
            else:
                text = f"{_named(first)} {_does(motion)} past {_named(second)}"
            things = two_things(_stream(text), kind, motion, (first, second)).things
            yield RichPrompt(text, _quiet(kind, *things))


def _camera(looks: _Looks) -> Iterator[RichPrompt]:
    for number, camera in enumerate((*CAMERAS[1:], *CAMERAS[1:])):
        motion = ("still", "rotate")[number % 2]
        colour, shape = looks.next(spins=motion == "rotate")
        words = f"{_named((colour, shape))} {_does(motion)}"
        scene = camera_scene(_stream(words), colour, shape, motion, camera)
        back = replace(scene.background, kind="checker", angle=0.0)
        surface = article(f"{back.first} and {back.second} checkered background")
        text = f"{words} on {surface}, {CAMERA_WORDS[camera][0]}"
        yield RichPrompt(text, replace(scene, background=back, kind="camera"))


def _light(looks: _Looks) -> Iterator[RichPrompt]:
    for number, light in enumerate((*LIGHTS[1:], *LIGHTS[1:])):
        motion = ("left", "down", "bounce", "right", "up", "orbit", "still", "grow")[number]
        colour, shape = looks.next()
        words = f"{_named((colour, shape))} {_does(motion)}"
        scene = light_scene(_stream(words), colour, shape, motion, light)
        name = scene.background.first
        text = f"{words} on {article(name)} background, {LIGHT_WORDS[light][0]}"
        back = Background("plain", name, name)
        yield RichPrompt(text, replace(scene, background=back, kind="light"))
