"""The fixed prompts by which a trained model is scored."""

from dataclasses import dataclass

from .palette import OBJECT_COLOURS
from .rich_prompts import RichPrompt
from .sample import is_novel, make_thing
from .scene import DIRECTIONS, MOTIONS, SHAPES, SPINNABLE, Background, Camera, Scene
from .stream import Stream
from .words import DIRECTION_WORDS, OTHER_MOTION_WORDS, third_person

PER_MOTION = 4
"""Prompts of each motion."""


@dataclass(frozen=True)
class Prompt:
    """A prompt for one object and what it must show."""

    text: str
    colour: str
    shape: str
    motion: str

    @property
    def novel(self) -> bool:
        """Whether the combination is held out of the training split."""
        return is_novel(self.colour, self.shape, self.motion)


def score_prompts() -> tuple[Prompt, ...]:
    """Returns 56 prompts: every motion four times, colours and shapes evenly spread."""
    prompts = []
    for m, motion in enumerate(MOTIONS):
        shapes = SPINNABLE if motion == "rotate" else tuple(SHAPES)
        for n in range(PER_MOTION):
            colour = tuple(OBJECT_COLOURS)[len(prompts) % len(OBJECT_COLOURS)]
            shape = shapes[(m + n) % len(shapes)]
            words = f"move {DIRECTION_WORDS[motion][0]}" if motion in DIRECTIONS else ""
            action = third_person(words or OTHER_MOTION_WORDS[motion][0])
            article = "an" if colour[0] in "aeiou" else "a"
            prompts.append(Prompt(f"{article} {colour} {shape} {action}", colour, shape, motion))
    return tuple(prompts)


def prompt_scene(prompt: Prompt | RichPrompt, seed: int = 0) -> Scene:
    """Returns a scene that a prompt describes, whose frame 0 serves as the image of I2V.

    A rich prompt has one of its own, whatever the seed.
    """
    if isinstance(prompt, RichPrompt):
        return prompt.scene
    stream = Stream(seed, "prompt", prompt.text)
    thing = make_thing(stream, prompt.colour, prompt.shape, prompt.motion, Camera())
    backdrop = "dark grey" if prompt.colour in ("white", "yellow", "cyan") else "light grey"
    return Scene((thing,), Background("plain", backdrop, backdrop))
