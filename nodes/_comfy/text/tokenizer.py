"""The tokenizer of a umT5 file that has none: that of another umT5 with the same vocabulary."""

import logging

import torch
from torch import Tensor

from ....wan_model.errors import WanError
from ....wan_model.loading import Checkpoint, TextEncoderConfig, open_checkpoint
from ....wan_model.loading.source import Reader
from ..host import runtime

logger = logging.getLogger(__name__)

TOKENIZER = "spiece_model"
"""Tensor that holds a sentencepiece model as bytes."""

FOLDER = "text_encoders"


def own_tokenizer(checkpoint: Checkpoint) -> Tensor | None:
    """Returns the tokenizer of a file as bytes (uint8), if it has one."""
    raw = checkpoint.extras.get(TOKENIZER)
    return None if raw is None else Reader()(raw, torch.uint8)


def borrowed_tokenizer(vocab_size: int) -> Tensor | None:
    """Returns the tokenizer of the first umT5 among the text encoders with this vocabulary."""
    for name in runtime.model_names(FOLDER):
        try:
            other = open_checkpoint(runtime.model_path(FOLDER, name), "text_encoder")
        except (WanError, OSError):
            continue  # another kind of text encoder, or none
        config = other.info.config
        if isinstance(config, TextEncoderConfig) and config.vocab_size == vocab_size:
            found = own_tokenizer(other)
            if found is not None:
                logger.info("The text encoder has no tokenizer; that of %s is used", name)
                return found
    return None
