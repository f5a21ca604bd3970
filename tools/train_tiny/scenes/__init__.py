"""Captioned synthetic clips of moving shapes: the training data of wan22-tiny.

`sample_scene(seed, index)` gives the truth, `render` the pixels, `caption` the words.
"""

from .captions import caption
from .palette import BACKGROUND_COLOURS, OBJECT_COLOURS, oklab
from .prompts import Prompt, prompt_scene, score_prompts
from .render import render
from .rich import SAMPLERS, sample_rich_scene
from .rich_prompts import RichPrompt, rich_prompts
from .sample import SPLITS, is_novel, sample_scene
from .scene import (
    BACKGROUNDS,
    CAMERAS,
    DIRECTIONS,
    KINDS,
    LIGHTS,
    MOTIONS,
    SHAPES,
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

__all__ = [
    "BACKGROUNDS",
    "BACKGROUND_COLOURS",
    "CAMERAS",
    "DIRECTIONS",
    "KINDS",
    "LIGHTS",
    "MOTIONS",
    "OBJECT_COLOURS",
    "SAMPLERS",
    "SHAPES",
    "SPLITS",
    "Background",
    "Camera",
    "Light",
    "Path",
    "PathPair",
    "Prompt",
    "RichPrompt",
    "Scene",
    "Stream",
    "Thing",
    "caption",
    "is_novel",
    "oklab",
    "prompt_scene",
    "render",
    "rich_prompts",
    "sample_rich_scene",
    "sample_scene",
    "score_prompts",
    "times",
    "track",
]
