"""Checkpoints: what a file is, and how its tensors become a model."""

from .checkpoint import Checkpoint, CheckpointInfo, detect, open_checkpoint
from .files import Expert, guess_expert, guess_pair, says_noise
from .load import load_dit, load_vae, unchanged_regions
from .models import find_dit_kind
from .sizes import TextEncoderConfig

__all__ = [
    "Checkpoint",
    "CheckpointInfo",
    "Expert",
    "TextEncoderConfig",
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
