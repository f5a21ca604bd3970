"""umT5 files: taken if they are exactly one, and refused by name if they are not."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.toy.make_checkpoints import make_text_encoder
from tests.unit.loading.checkpoints import save
from wan_model.errors import CheckpointError
from wan_model.loading import open_checkpoint
from wan_model.loading.text_encoder import text_encoder_entries, tokenizer_bytes

State = dict[str, Tensor]

BLOCK = "encoder.block.1.layer"
QUERY, WIDE = f"{BLOCK}.0.SelfAttention.q", f"{BLOCK}.1.DenseReluDense.wo"
BIAS = f"{BLOCK}.0.SelfAttention.relative_attention_bias"
FIRST_QUERY = QUERY.replace("block.1", "block.0")


@cache
def original() -> State:
    return make_text_encoder("umt5")


def scaled(scale: Tensor, leaf: str = "scale_weight") -> State:
    codes = original()[f"{QUERY}.weight"].to(torch.float8_e4m3fn)
    return {f"{QUERY}.weight": codes, f"{QUERY}.{leaf}": scale}


def without(name: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if key != name}


def entries(folder: Path, state: State) -> list[str]:
    file = save(folder / "a.safetensors", state)
    return list(text_encoder_entries(open_checkpoint(file, "text_encoder")))


def renamed(state: State) -> State:
    return {name.replace("shared", "encoder.embed_tokens"): value for name, value in state.items()}


GOOD: dict[str, Callable[[State], State]] = {
    "as it is": dict,
    "embedding by its other name": renamed,
    "embedding by both": lambda state: state | renamed({"shared.weight": torch.ones(9)}),
    "with a decoder": lambda state: state | {"decoder.x": torch.zeros(3)},
    "fp8 with a scale": lambda state: state | scaled(torch.tensor(2.0)),
    "scales of activations": lambda state: (
        state | scaled(torch.tensor(2.0)) | {f"{QUERY}.scale_input": torch.ones(1)}
    ),
}


@pytest.mark.parametrize("change", GOOD)
def test_whole_encoders(change: str, tmp_path: Path):
    names = entries(tmp_path, GOOD[change](original()))
    assert set(names) == original().keys() - {"spiece_model"}


BAD: dict[str, tuple[Callable[[State], State], str]] = {
    "no query": (without(f"{QUERY}.weight"), f"1 missing .{QUERY}.weight"),
    "no first query": (without(f"{FIRST_QUERY}.weight"), "Got 0 and 128 rows"),
    "no embedding": (without("shared.weight"), "no tensor shared.weight"),
    "no norm": (without("encoder.final_layer_norm.weight"), "encoder.final_layer_norm.weight"),
    "one more": (lambda s: s | {"encoder.x": torch.zeros(2)}, "1 unexpected .encoder.x."),
    "one more block": (
        lambda s: s | {f"{BLOCK.replace('1', '7')}.0.layer_norm.weight": torch.zeros(64)},
        "missing",
    ),
    "shape": (
        lambda s: s | {f"{WIDE}.weight": torch.zeros(64, 64)},
        f"{WIDE}.weight: .64, 64. instead of .64, 128.",
    ),
    "sides": (lambda s: s | {f"{WIDE}.weight": torch.zeros(64, 128, 1)}, "of another shape"),
    "heads": (
        lambda s: s | {f"{FIRST_QUERY}.weight": torch.zeros(66, 64)},
        "Got 66 and 128 rows for .* a multiple of 4 heads",
    ),
    "buckets": (
        lambda s: s | {f"{BIAS}.weight": torch.zeros(16, 4)},
        "instead of .32, 4.",
    ),
    "dtype": (lambda s: s | {f"{QUERY}.weight": torch.zeros(64, 64).int()}, "I32 tensors"),
    "NaN scale": (lambda s: s | scaled(torch.tensor(torch.nan)), "broken scales. Got nan"),
    "shape of a scale": (lambda s: s | scaled(torch.ones(3)), "scale of a wrong shape"),
    "codes without a scale": (
        lambda s: (
            without(f"{QUERY}.weight")(s)
            | scaled(torch.ones(()))
            | {f"{WIDE}.weight": s[f"{WIDE}.weight"].to(torch.float8_e4m3fn)}
        ),
        "lacks scales",
    ),
    "NaN scale of activations": (
        lambda s: s | scaled(torch.tensor(1.0)) | {f"{QUERY}.scale_input": torch.tensor(torch.inf)},
        "broken scales. Got inf",
    ),
    "dtype of a scale of activations": (
        lambda s: s | scaled(torch.tensor(1.0)) | {f"{QUERY}.input_scale": torch.ones(9)},
        r"a broken scale. Got F32 of shape \[9\]",
    ),
}


@pytest.mark.parametrize("change", BAD)
def test_what_is_no_whole_encoder(change: str, tmp_path: Path):
    make, words = BAD[change]
    with pytest.raises(CheckpointError, match=words):
        entries(tmp_path, make(original()))


def test_a_tokenizer_is_bytes(tmp_path: Path):
    file = save(tmp_path / "a.safetensors", original() | {"spiece_model": torch.zeros(4, 2)})
    with pytest.raises(CheckpointError, match="has a damaged tokenizer"):
        tokenizer_bytes(open_checkpoint(file, "text_encoder").extras["spiece_model"])
