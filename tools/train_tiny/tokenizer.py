"""The sentencepiece tokenizer of the tiny umT5: trained on captions, with umT5's special ids."""

import io
from collections.abc import Iterator
from pathlib import Path

import sentencepiece
import torch
from torch import Tensor

from wan_model.config import NEGATIVE_PROMPT
from wan_model.prompt import END_TOKEN, clean_prompt

from .config import Recipe
from .data import Clips

PAD_TOKEN = 0


class Tokenizer:
    """Prompts to token ids, as ComfyUI's umT5 tokenizer makes them from the same file."""

    def __init__(self, model: bytes, max_tokens: int) -> None:
        """Takes a serialized sentencepiece model and the length that prompts are cut to."""
        self.model, self.max_tokens = model, max_tokens
        self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    @classmethod
    def load(cls, path: Path, max_tokens: int) -> "Tokenizer":
        """Reads a file that `train_tokenizer` has written."""
        return cls(path.read_bytes(), max_tokens)

    @property
    def size(self) -> int:
        """Number of pieces."""
        return self.processor.GetPieceSize()

    def ids(self, text: str) -> list[int]:
        """Returns the ids of a cleaned prompt, closed by </s>, of any length."""
        return [*self.processor.EncodeAsIds(clean_prompt(text)), END_TOKEN]

    def batch(self, texts: list[str]) -> Tensor:
        """Returns int16 (B, max_tokens), padded with 0; a long prompt keeps its closing </s>."""
        rows = torch.full((len(texts), self.max_tokens), PAD_TOKEN, dtype=torch.int16)
        for row, text in zip(rows, texts, strict=True):
            ids = self.ids(text)
            if len(ids) > self.max_tokens:
                ids = [*ids[: self.max_tokens - 1], END_TOKEN]
            row[: len(ids)] = torch.tensor(ids, dtype=torch.int16)
        return rows


def train_tokenizer(recipe: Recipe, clips: Clips) -> bytes:
    """Returns a serialized tokenizer, the same on every run.

    Capital letters are folded, full-width characters made plain, and whatever is unknown falls
    apart into bytes.

    Raises:
        ValueError: if the official negative prompt would be cut in training.
    """
    text = recipe.text
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=_corpus(recipe, clips),
        model_writer=model,
        model_type="unigram",
        vocab_size=text.vocabulary,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="nmt_nfkc_cf",
        pad_id=PAD_TOKEN,
        eos_id=END_TOKEN,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    tokenizer = Tokenizer(model.getvalue(), text.max_tokens)
    needed = len(tokenizer.ids(NEGATIVE_PROMPT))
    if needed > text.max_tokens:
        raise ValueError(
            f"The negative prompt would be cut. Got {needed} tokens, need at most "
            f"{text.max_tokens}. Raise max_tokens or negative_repeats."
        )
    return tokenizer.model


def _corpus(recipe: Recipe, clips: Clips) -> Iterator[str]:
    for number in range(recipe.text.corpus_captions):
        (scene,) = clips.scenes(number, 1)
        yield clean_prompt(clips.caption(scene, number, 0))
    for _ in range(recipe.text.negative_repeats):
        yield clean_prompt(NEGATIVE_PROMPT)
