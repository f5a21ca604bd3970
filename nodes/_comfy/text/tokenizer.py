"""The tokenizer of a umT5 file that has none: that of another umT5 with the same vocabulary."""

import logging

import torch
from torch import Tensor

from ....wan_model.errors import CheckpointError, WanError
from ....wan_model.loading import Checkpoint, TextEncoderConfig, open_checkpoint
from ....wan_model.loading.gguf_tokenizer import sentencepiece_model
from ....wan_model.loading.source import Reader
from ....wan_model.loading.source_gguf import is_gguf
from ..host import runtime

logger = logging.getLogger(__name__)

TOKENIZER = "spiece_model"
"""Tensor that holds a sentencepiece model as bytes."""

FOLDER = "text_encoders"

ENCODER_FILES = "umt5_xxl_fp8_e4m3fn_scaled.safetensors or umt5_xxl_fp16.safetensors"


def own_tokenizer(checkpoint: Checkpoint) -> Tensor | None:
    """Returns the tokenizer of a file as bytes (uint8), if it has one."""
    raw = checkpoint.extras.get(TOKENIZER)
    if raw is not None:
        return Reader()(raw, torch.uint8)
    model = sentencepiece_model(checkpoint.path) if is_gguf(checkpoint.path) else None
    return None if model is None else torch.frombuffer(bytearray(model), dtype=torch.uint8)


def needed_tokenizer(checkpoint: Checkpoint, vocab_size: int) -> Tensor:
    """Returns the tokenizer of a file, or one that fits.

    Raises:
        CheckpointError: if no file has one.
    """
    own = own_tokenizer(checkpoint)
    tokenizer = borrowed_tokenizer(vocab_size) if own is None else own
    if tokenizer is None:
        raise CheckpointError(
            f"{checkpoint.path.name} has no tokenizer. Got none in it, and no other umT5 with "
            f"{vocab_size} tokens in models/text_encoders; need one of the two. Put "
            f"{ENCODER_FILES} there, too, or choose it here."
        )
    return tokenizer


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
