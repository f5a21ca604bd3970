"""Captioned synthetic clips of moving shapes: the training data of wan22-tiny.

`sample_scene(seed, index)` gives the truth, `render` the pixels, `caption` the words.
"""

from .captions import caption
from .palette import BACKGROUND_COLOURS, OBJECT_COLOURS, oklab
from .prompts import Prompt, prompt_scene, score_prompts
from .render import render
from .sample import SPLITS, is_novel, sample_scene
from .scene import (
    BACKGROUNDS,
    CAMERAS,
    DIRECTIONS,
    MOTIONS,
    SHAPES,
    Background,
    Camera,
    Path,
    Scene,
    Thing,
    times,
    track,
)
from .stream import Stream

__all__ = [
    "BACKGROUNDS",
    "BACKGROUND_COLOURS",
    "CAMERAS",
    "DIRECTIONS",
    "MOTIONS",
    "OBJECT_COLOURS",
    "SHAPES",
    "SPLITS",
    "Background",
    "Camera",
    "Path",
    "Prompt",
    "Scene",
    "Stream",
    "Thing",
    "caption",
    "is_novel",
    "oklab",
    "prompt_scene",
    "render",
    "sample_scene",
    "score_prompts",
    "times",
    "track",
]
