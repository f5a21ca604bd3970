"""The tokenizer of a umT5 file that has none: that of another umT5 with the same vocabulary."""

import logging

import torch
from torch import Tensor

from ....wan_model.errors import CheckpointError, ShortageError, WanError
from ....wan_model.loading import Checkpoint, TextEncoderConfig, open_checkpoint
from ....wan_model.loading.gguf_tokenizer import sentencepiece_model
from ....wan_model.loading.source import shown
from ....wan_model.loading.text_encoder import tokenizer_bytes
from ....wan_model.unreadable import is_shortage
from ..host import runtime

logger = logging.getLogger(__name__)

TOKENIZER = "spiece_model"
"""Tensor that holds a sentencepiece model as bytes."""

FOLDER = "text_encoders"

END = 1
"""The token that ends every text."""

TRIAL = "a red ball"

ENCODER_FILES = "umt5_xxl_fp8_e4m3fn_scaled.safetensors or umt5_xxl_fp16.safetensors"


def needed_tokenizer(checkpoint: Checkpoint, vocab_size: int) -> Tensor:
    """Returns the tokenizer of a file as bytes (uint8), or one of another that fits.

    Raises:
        CheckpointError: if its own is broken, or no file has one.
        ShortageError: if a file that may have it cannot be read now.
    """
    tokenizer = _own_tokenizer(checkpoint, vocab_size) or _borrowed_tokenizer(vocab_size)
    if tokenizer is None:
        raise CheckpointError(
            f"{checkpoint.path.name} has no tokenizer. Got none in it, and no other umT5 with "
            f"{vocab_size} tokens in models/text_encoders; need one of the two. Put "
            f"{ENCODER_FILES} there, too, or choose it here."
        )
    return torch.frombuffer(bytearray(tokenizer), dtype=torch.uint8)


def _own_tokenizer(checkpoint: Checkpoint, vocab_size: int) -> bytes | None:
    raw = checkpoint.extras.get(TOKENIZER)
    if raw is not None:
        model = tokenizer_bytes(raw).numpy().tobytes()
    else:
        model = sentencepiece_model(checkpoint.path) if checkpoint.is_gguf else None
    if model is not None:
        _check(checkpoint.path.name, model, vocab_size)
    return model


def _check(file: str, model: bytes, vocab_size: int) -> None:
    """Refuses a tokenizer that cannot be read, or has tokens that the encoder does not know."""
    import sentencepiece  # as ComfyUI imports it: only for text encoders

    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=model or b"-")
        processor.Encode(TRIAL)
        tokens, end = processor.GetPieceSize(), processor.eos_id()
    except (RuntimeError, OSError, ValueError, IndexError) as error:
        if is_shortage(error):
            raise  # not the tokenizer's fault
        raise CheckpointError(
            f"{file} has a damaged tokenizer. Got {shown(error)}, need a sentencepiece model. "
            "Download the file again."
        ) from error
    if tokens > vocab_size or end != END:
        raise CheckpointError(
            f"{file} has a different model's tokenizer. Got {tokens} tokens that end with number "
            f"{end}, need at most {vocab_size} and {END}. Choose another version of it."
        )


def _borrowed_tokenizer(vocab_size: int) -> bytes | None:
    """Returns the tokenizer of the first umT5 among the text encoders with this vocabulary.

    Raises:
        ShortageError: if none is found, and one file cannot be read for now: it might have one.
    """
    unread: ShortageError | None = None
    for name in runtime.model_names(FOLDER):
        try:
            other = open_checkpoint(runtime.model_path(FOLDER, name), "text_encoder")
            config = other.info.config
            fits = isinstance(config, TextEncoderConfig) and config.vocab_size == vocab_size
            found = _own_tokenizer(other, vocab_size) if fits else None
        except ShortageError as error:
            unread = unread or error
            continue
        except (WanError, OSError):
            continue  # another kind of text encoder, or none
        if found is not None:
            logger.info("The text encoder has no tokenizer; that of %s is used", name)
            return found
    if unread is not None:
        raise unread
    return None
