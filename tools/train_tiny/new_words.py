"""New words for a tokenizer and a text encoder that have been trained: see `add_words`.

A sentencepiece model is a protobuf message with a repeated field of pieces, and such messages may
be written one after the other: so new pieces are appended, and all others keep their numbers.
"""

import re
import struct
from collections import Counter
from dataclasses import replace

import torch

from wan_model.prompt import clean_prompt

from .config import TEXT_ENCODER, Recipe
from .data import Clips
from .files import TrainingFolder
from .tokenizer import Tokenizer

SCENES = 1500
"""Scenes whose captions are looked through."""

VARIANTS = 8
"""Captions of each."""

LEAST = 30
"""How often a word must occur in them."""

BEGINNING = "\u2581"
"""Stands for the space before a word."""

EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight")


def add_words(recipe: Recipe, folder: TrainingFolder) -> list[str]:
    """Gives tokenizer and text encoder a piece for each word that only the recipe's scenes need.

    Simple captions are cut as before: a word is left out that begins one of theirs. A new piece
    begins with the mean embedding of the pieces that the word was made of.

    Args:
        recipe: whose scenes are captioned.
        folder: with a trained tokenizer and text encoder, which are written anew.

    Returns:
        The words; none if there is nothing to be added.
    """
    simple = replace(recipe, clips=replace(recipe.clips, scenes="simple"))
    known = _words(simple, 1)
    tokenizer = Tokenizer.load(folder.tokenizer, recipe.text.max_tokens)
    pieces = {word: tokenizer.ids(word)[:-1] for word in _words(recipe, LEAST)}
    new = [
        word
        for word, ids in sorted(pieces.items())
        if len(ids) > 1 and not any(other.startswith(word) for other in known)
    ]
    if not new:
        return []
    processor = tokenizer.processor
    score = max(processor.GetScore(n) for n in range(processor.GetPieceSize()) if n > 260)
    state = folder.read_weights(TEXT_ENCODER)
    for name in (name for name in EMBEDDINGS if name in state):
        rows = [state[name][pieces[word]].float().mean(dim=0).to(state[name]) for word in new]
        state[name] = torch.cat((state[name], torch.stack(rows)))
    folder.write_weights(TEXT_ENCODER, state, folder.metadata(TEXT_ENCODER))
    added = b"".join(_piece(BEGINNING + word, score) for word in new)
    folder.tokenizer.write_bytes(tokenizer.model + added)
    return new


def _words(recipe: Recipe, least: int) -> set[str]:
    """Returns the words that occur so often, at least, in captions of a recipe's scenes."""
    clips = Clips(recipe.clips, recipe.seed, "train", torch.device("cpu"))
    counts = Counter(
        word
        for number, scene in enumerate(clips.scenes(0, SCENES))
        for variant in range(VARIANTS)
        for word in re.findall(
            r"[a-z]+", clean_prompt(clips.caption(scene, number, variant)).lower()
        )
    )
    return {word for word, often in counts.items() if often >= least}


def _piece(text: str, score: float) -> bytes:
    """Returns field 1 of a sentencepiece model: a message of text (1) and score (2)."""
    data = text.encode()
    body = b"\x0a" + bytes([len(data)]) + data + b"\x15" + struct.pack("<f", score)
    return b"\x0a" + bytes([len(body)]) + body
