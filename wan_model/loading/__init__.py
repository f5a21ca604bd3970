"""Checkpoints: what a file is, and how its tensors become a model."""

from .checkpoint import Checkpoint, CheckpointInfo, detect, open_checkpoint
from .converted import converted_file
from .dit import load_dit
from .files import Expert, guess_expert, guess_pair, says_noise
from .models import find_dit_kind
from .sizes import TextEncoderConfig
from .strict import unchanged_regions
from .vae import load_vae

__all__ = [
    "Checkpoint",
    "CheckpointInfo",
    "Expert",
    "TextEncoderConfig",
    "converted_file",
    "detect",
    "find_dit_kind",
    "guess_expert",
    "guess_pair",
    "load_dit",
    "load_vae",
    "open_checkpoint",
    "says_noise",
    "unchanged_regions",
]
