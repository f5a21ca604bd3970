"""The files that are shipped: official keys, fp8 with a scale per row, tokenizer inside."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from wan_model.loading import detect

from .config import SHIPPED, Recipe
from .files import State, TrainingFolder
from .fp8 import to_fp8

TOKENIZER_KEY = "spiece_model"
"""Of the tokenizer in the text encoder's file."""

LIMIT_BYTES = 60_000_000
"""Of all files together."""

NAMES = {
    "t2v_high": "wan22-tiny-t2v-high-noise",
    "t2v_low": "wan22-tiny-t2v-low-noise",
    "i2v_high": "wan22-tiny-i2v-high-noise",
    "i2v_low": "wan22-tiny-i2v-low-noise",
    "ti2v": "wan22-tiny-ti2v",
    "vae21": "wan22-tiny-wan21-vae",
    "vae22": "wan22-tiny-wan22-vae",
    "text_encoder": "wan22-tiny-umt5",
}
"""File names; the words high and low tell the loaders which expert it is."""


def export_all(recipe: Recipe, folder: TrainingFolder) -> list[Path]:
    """Writes every shipped file.

    Raises:
        FileNotFoundError: if a stage has not been run.
        ValueError: if the files are too large together, or made by different recipes.
    """
    files = [export_stage(stage, folder) for stage in (*SHIPPED, *recipe.vaes, "text_encoder")]
    total = sum(file.stat().st_size for file in files)
    if total > LIMIT_BYTES:
        raise ValueError(
            f"The tiny model is too large to ship. Got {total} bytes, need {LIMIT_BYTES} or "
            "less. Choose smaller widths in the recipe."
        )
    return files


def export_stage(stage: str, folder: TrainingFolder) -> Path:
    """Writes the shipped file of one stage and returns its path."""
    state = folder.read_weights(stage)
    if stage == "text_encoder":
        state = text_encoder_state(state, folder.tokenizer.read_bytes())
    elif stage in SHIPPED:
        state = fp8_state(state)
    folder.export.mkdir(parents=True, exist_ok=True)
    path = folder.export / f"{NAMES[stage]}.safetensors"
    save_file(state, path, folder.metadata(stage))
    detect(path)
    return path


def fp8_state(state: State) -> State:
    """Returns a transformer whose block matrices are fp8 with scales per row."""
    result: State = {}
    for name, tensor in state.items():
        if name.startswith("blocks.") and name.endswith(".weight") and tensor.ndim == 2:
            layer = name.removesuffix(".weight")
            result[name], result[f"{layer}.weight_scale"] = to_fp8(tensor)
        else:
            result[name] = tensor
    return result


def text_encoder_state(state: State, tokenizer: bytes) -> State:
    """Returns the encoder with transformers' keys, the token table once, and its tokenizer."""
    result = {name: t for name, t in state.items() if name != "encoder.embed_tokens.weight"}
    return result | {TOKENIZER_KEY: _bytes(tokenizer)}


def _bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
