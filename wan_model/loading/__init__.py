"""Checkpoints: what a file is, and how its tensors become a model."""

from .converted import converted_file
from .detect import CheckpointInfo, TextEncoderConfig, detect
from .dit import load_dit
from .regions import file_regions
from .vae import load_vae
from .weights import choose_weights, unchanged_regions

__all__ = [
    "CheckpointInfo",
    "TextEncoderConfig",
    "choose_weights",
    "converted_file",
    "detect",
    "file_regions",
    "load_dit",
    "load_vae",
    "unchanged_regions",
]
