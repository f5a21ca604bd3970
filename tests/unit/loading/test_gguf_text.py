"""umT5 encoders in GGUF: names, sizes and the tokenizer in the header."""

from pathlib import Path

import pytest
import torch
from sentencepiece import SentencePieceProcessor

from tests.toy.gguf_files import State, write_umt5
from tests.toy.make_checkpoints import make_text_encoder
from tests.toy.text_encoder import SENTENCES
from wan_model import detect
from wan_model.errors import CheckpointError
from wan_model.loading import open_checkpoint
from wan_model.loading.gguf_tokenizer import sentencepiece_model
from wan_model.loading.source import Reader

TEXTS = (*SENTENCES, "  Two   spaces, \u201cquotes\u201d, \u4e24\u53ea\u72d0\u72f8 \ufb01", "")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, State, State]:
    """A file, the state that it was made of, and its numbers."""
    file = tmp_path_factory.mktemp("umt5") / "umt5-Q8_0.gguf"
    state = make_text_encoder("umt5")
    return file, state, write_umt5(file, state, "Q8_0")


def test_names_and_numbers(encoder: tuple[Path, State, State]):
    file, state, expected = encoder
    info = detect(file)
    assert info.label == "text encoder (dim 64, 2 layers), Q8_0"
    entries = open_checkpoint(file).entries
    assert entries.keys() == state.keys() - {"spiece_model"}
    for name, entry in entries.items():
        assert torch.equal(entry.read(Reader()).dequantize(torch.float32), expected[name])


def test_the_tokenizer_is_what_it_was(encoder: tuple[Path, State, State]):
    file, state, _ = encoder
    rebuilt = sentencepiece_model(file)
    assert rebuilt is not None
    before = SentencePieceProcessor(model_proto=state["spiece_model"].numpy().tobytes())
    after = SentencePieceProcessor(model_proto=rebuilt)
    assert after.GetPieceSize() == before.GetPieceSize()
    assert (after.eos_id(), after.unk_id()) == (1, 2)
    for text in TEXTS:
        assert after.Encode(text, add_eos=True) == before.Encode(text, add_eos=True), text


def test_a_t5_is_no_umt5(tmp_path: Path):
    """T5 has the bias of positions in its first block only."""
    state = make_text_encoder("t5")
    del state["encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"]
    write_umt5(tmp_path / "t5.gguf", state, "F16")
    with pytest.raises(CheckpointError, match="a T5 text encoder without umT5's bias per layer"):
        detect(tmp_path / "t5.gguf")


def test_without_tokenizer(tmp_path: Path):
    state = make_text_encoder("umt5")
    del state["spiece_model"]
    write_umt5(tmp_path / "a.gguf", state, "F16")
    assert sentencepiece_model(tmp_path / "a.gguf") is None
