"""Checkpoints: what a file is, and how its tensors become a model."""

from .detect import CheckpointInfo, TextEncoderConfig, detect
from .dit import load_dit
from .regions import file_regions
from .vae import load_vae

__all__ = [
    "CheckpointInfo",
    "TextEncoderConfig",
    "detect",
    "file_regions",
    "load_dit",
    "load_vae",
]
