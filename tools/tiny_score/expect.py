"""What a video must show: from a scene, a scoring prompt, or a sentence."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..train_tiny.scenes import Prompt, RichPrompt, Scene, Thing, times, track
from ..train_tiny.scenes.words import (
    COLOUR_WORDS,
    DIRECTION_WORDS,
    OTHER_MOTION_WORDS,
    ROUND_VERBS,
    SHAPE_WORDS,
    gerund,
    third_person,
)
from .motion import name_motion

Target = Scene | Prompt | RichPrompt | str

_FRAMES = 17


@dataclass(frozen=True)
class Expected:
    """One object that must be seen. None: anything will do."""

    colour: str | None
    shape: str | None
    motion: str | None


class PromptError(ValueError):
    """The prompt names no object that the scorer knows."""


def expect(target: Target) -> tuple[Expected, ...]:
    """Returns the objects that a video of the target must show.

    Raises:
        PromptError: no coloured shape is found in a prompt.
    """
    if isinstance(target, RichPrompt):
        target = target.scene
    if isinstance(target, Scene):
        return tuple(_seen(thing, target) for thing in target.things)
    if isinstance(target, Prompt):
        return (Expected(target.colour, target.shape, target.motion),)
    return parse_prompt(target)


def _seen(thing: Thing, scene: Scene) -> Expected:
    """Returns what is seen of an object: a moving camera changes the motion on the screen."""
    motion: str | None = thing.motion
    if scene.kind == "sequence":  # two motions have no common name
        motion = None
    if scene.camera.motion != "still":
        rows = torch.from_numpy(track(thing, scene.camera, times(_FRAMES))).float()
        motion = name_motion(torch.arange(_FRAMES), rows[:, :2], rows[:, 2], rows[:, 3]).name
    return Expected(thing.colour, thing.shape, motion)


def parse_prompt(text: str) -> tuple[Expected, ...]:
    """Finds the objects that a prompt names, with the words of the captions.

    An object is a colour and a shape with at most one word between; its motion is the longest
    phrase known that follows before the next object. Of two objects joined by "both", the motion
    of the second holds for both.

    Raises:
        PromptError: no coloured shape is found, or more is said than is read from words.
    """
    text = " ".join(text.lower().split())
    if more := _MORE.search(text):
        raise PromptError(
            f"Sequences, pairs and light are not read from words. Got {more[0]!r}, need one motion "
            "of each object. Score a `RichPrompt` or a scene instead."
        )
    objects = list(_OBJECT.finditer(text))
    if not objects:
        raise PromptError(
            f"No object is named that can be scored. Got {text!r}, need a colour and a shape. "
            'Write something like "a red ball rolls to the left".'
        )
    ends = [found.start() for found in objects[1:]] + [len(text)]
    motions = [_motion(text[found.end() : end]) for found, end in zip(objects, ends, strict=True)]
    if " both " in text:
        motions = [motions[-1]] * len(motions)
    return tuple(
        Expected(_COLOURS[found["colour"]], _SHAPES[found["shape"]], motion)
        for found, motion in zip(objects, motions, strict=True)
    )


def _motion(text: str) -> str | None:
    """Returns the motion that a clause speaks of; the camera's does not count."""
    clause = _ADVERBS.sub("", text.partition("the camera")[0])
    phrase = max(_MOTION.findall(clause), key=len, default=None)
    return _MOTIONS[phrase] if phrase else None


def _inverted(words: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Returns the name for every word."""
    return {word: name for name, many in words.items() for word in many}


def _motion_phrases() -> dict[str, str]:
    """Returns the motion for every phrase, in all three forms of the verb."""
    phrases: dict[str, str] = {}
    for motion, actions in OTHER_MOTION_WORDS.items():
        for action in actions:
            phrases |= {form(action): motion for form in (str, third_person, gerund)}
    for motion, places in DIRECTION_WORDS.items():
        for verb in ROUND_VERBS:
            for form in (str, third_person, gerund):
                phrases |= {f"{form(verb)} {place}": motion for place in places}
    return phrases


def _either(words: Mapping[str, str]) -> str:
    return "|".join(map(re.escape, sorted(words, key=len, reverse=True)))


_COLOURS = _inverted(COLOUR_WORDS)
_SHAPES = _inverted(SHAPE_WORDS)
_MOTIONS = _motion_phrases()
_OBJECT = re.compile(rf"\b(?P<colour>{_either(_COLOURS)})(?: \w+)? (?P<shape>{_either(_SHAPES)})\b")
_MOTION = re.compile(rf"\b(?:{_either(_MOTIONS)})\b")
_MORE = re.compile(
    r"\b(?:then|follow(?:s|ed|ing)|chas(?:es|ing)|past|pass(?:es|ing)?|it gets"
    r"|the light (?:fades|comes|turns))\b"
)
"""What captions say of the richer kinds of scenes but the speed and the camera."""
_ADVERBS = re.compile(r"\b(?:slowly|gently|quickly|fast|counterclockwise|clockwise) ?")
