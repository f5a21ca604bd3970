"""Prompts to embeddings, with those of known prompts kept on disk."""

import hashlib
import logging
import os
import time
from contextlib import suppress
from pathlib import Path

import comfy.sd
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ....wan_model.config import TEXT_LEN
from ....wan_model.errors import NotFiniteError, PairingError
from ....wan_model.prompt import clean_prompt, cut_tokens
from ....wan_model.whole_file import ENDING, write_whole
from ..host.runtime import cache_folder
from .umt5 import ENCODER

logger = logging.getLogger(__name__)

CACHE_BYTES = 256 << 20
"""Embeddings kept on disk; a prompt takes at most 8 MiB, the longest unused go first."""

OLD_SECONDS = 3600
"""Nobody is still writing a file that was begun so long ago."""

COMPUTE_DTYPE = "manual_cast_dtype"
"""A part that newer ComfyUI replaces in every text encoder: in what it computes."""

CACHE_VERSION = 2
"""Another one whenever the same prompt may give another embedding than before."""


def encode(clip: comfy.sd.CLIP, text: str) -> tuple[Tensor, str | None]:
    """Encodes a prompt as the official code does, or takes it from the disk cache.

    Args:
        clip: a umT5 encoder, from our loader or core's.
        text: as the user wrote it; parentheses and colons are text, not weights.

    Returns:
        Embedding fp32 (1, 512, dim), zero beyond the prompt, and a warning if the prompt was cut.

    Raises:
        PairingError: if the CLIP is not a umT5 encoder.
        NotFiniteError: if it gives NaN or infinity.
    """
    if getattr(clip.tokenizer, "clip_name", None) != "umt5xxl":
        raise PairingError(
            f"This CLIP is not a umT5 encoder. Got {type(clip.tokenizer).__name__}, need umT5. "
            "Connect 'Wan 2.2 Load Text Encoder', or ComfyUI's CLIPLoader with type 'wan'."
        )
    tokenizer = getattr(clip.tokenizer, clip.tokenizer.clip).tokenizer
    tokens = tokenizer(clean_prompt(text))["input_ids"]
    kept = cut_tokens(tokens)
    warning = None
    if len(kept) < len(tokens):
        warning = (
            f"The prompt was cut: it has {len(tokens)} tokens, Wan reads {TEXT_LEN}. "
            "Its end has no effect."
        )
        logger.warning(warning)
    file = _cache_file(clip, kept)
    embedding = None if file is None else _kept(file, len(kept))
    if embedding is None:
        pairs = {"umt5xxl": [[(token, 1.0) for token in kept]]}
        embedding = clip.encode_from_tokens(pairs).float().cpu()[:, : len(kept)]
        if not embedding.isfinite().all():
            raise NotFiniteError(
                "The text encoder cannot be used. Got NaN or infinity for the prompt, need finite "
                "numbers. Try without LoRAs on the CLIP, then download the text encoder again."
            )
        if file is not None:
            _store(file, embedding)
    return F.pad(embedding, (0, 0, 0, TEXT_LEN - embedding.shape[1])), warning


def _cache_file(clip: comfy.sd.CLIP, tokens: list[int]) -> Path | None:
    """Returns where an embedding is kept; None for an encoder of unknown origin, or a changed one.

    LoRAs change it, those of hooks too, and so do replaced parts and another last layer.
    """
    patcher = clip.patcher
    identity = patcher.get_attachment(ENCODER)
    replaced = patcher.object_patches.keys() - {COMPUTE_DTYPE}
    changed = patcher.patches or replaced or patcher.forced_hooks
    if identity is None or changed or clip.layer_idx is not None:
        return None
    precision = f"{next(clip.cond_stage_model.parameters()).dtype}"
    if COMPUTE_DTYPE in patcher.object_patches:
        precision += f" {patcher.object_patches[COMPUTE_DTYPE]}"
    key = f"{CACHE_VERSION} {identity} {precision} {patcher.load_device.type} {tokens}"
    name = hashlib.sha256(key.encode()).hexdigest()
    return cache_folder() / "text_embeddings" / f"{name}.safetensors"


def _kept(file: Path, length: int) -> Tensor | None:
    """Returns the embedding of so many tokens from disk; None if it is not there or damaged."""
    # Another server may remove it at any moment, so nothing is asked first and nothing made here.
    try:
        embedding = load_file(file)["embedding"]
        with suppress(OSError):  # of a folder that cannot be written, nothing is removed either
            os.utime(file)
        if embedding.shape[:-1] != (1, length) or not embedding.isfinite().all():
            raise ValueError(f"{file.name} does not hold {length} tokens in finite numbers")
    except FileNotFoundError:
        return None
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        logger.warning("A text embedding kept on disk is made anew: %s", error)
        return None
    return embedding


def _store(file: Path, embedding: Tensor) -> None:
    """Writes an embedding whole or not at all, and makes room. A full disk is no error."""
    try:
        write_whole(file, save({"embedding": embedding.contiguous()}))
        with suppress(OSError):  # another server may be removing the same files
            _make_room(file.parent)
    except OSError as error:
        logger.warning("The text embedding was not kept on disk: %s", error)


def _make_room(folder: Path) -> None:
    """Removes the embeddings that were not used for the longest time, and parts of killed runs."""
    used = [(file, file.stat()) for file in folder.iterdir()]
    used.sort(key=lambda item: item[1].st_mtime, reverse=True)
    total, now = 0, time.time()
    for file, stat in used:
        total += stat.st_size
        if total > CACHE_BYTES or (file.suffix == ENDING and now - stat.st_mtime > OLD_SECONDS):
            file.unlink(missing_ok=True)
