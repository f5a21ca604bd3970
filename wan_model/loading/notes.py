"""ComfyUI's notes on the number format of layers: beside their weights, or in the metadata.

A layer's note is JSON, {"format": "float8_e4m3fn", ...}. Source: ComfyUI, `convert_old_quants`.
"""

import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .checkpoint import Checkpoint
from .header import parse_json, read_bytes, shown
from .keymap import official_names, strip_prefix

NOTE = ".comfy_quant"
NOTES = ("comfy_quant", "input_scale", "scaled_fp8", "spiece_model")
"""Tensors that are not weights: quantization notes, activation scales, an embedded tokenizer."""

COMFY_FORMATS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise", "nvfp4", "mxfp8")
"""Those that can be read."""


def is_note(name: str) -> bool:
    """Whether an official name is a quantization note or other extra, not part of a model."""
    return name.rpartition(".")[2] in NOTES


def read_notes(checkpoint: Checkpoint) -> dict[str, tuple[str, dict[str, Any]]]:
    """Returns the note of every layer that has one, and what it is called in the file.

    Raises:
        CheckpointError: for a note that is no JSON object.
    """
    return {layer: (name, note) for layer, name, note in _notes(checkpoint)}


def write_note(number_format: str) -> Tensor:
    """Returns the note of a layer as ComfyUI reads it."""
    text = json.dumps({"format": number_format}).encode()
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


def _notes(checkpoint: Checkpoint) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name, entry in checkpoint.tensors.items():
        if name.endswith(NOTE):
            yield name.removesuffix(NOTE), name, _parse(checkpoint, read_bytes(entry))
    text = checkpoint.metadata.get("_quantization_metadata")
    layers = {} if text is None else _parse(checkpoint, text).get("layers", {})
    keys = {strip_prefix(entry.name) for entry in checkpoint.tensors.values()}
    official = official_names(checkpoint.component, checkpoint.style, keys)
    for name, note in layers.items() if isinstance(layers, dict) else ():
        layer = official(strip_prefix(f"{name}.weight")).removesuffix(".weight")
        yield layer, name, note if isinstance(note, dict) else {"format": note}


def _parse(checkpoint: Checkpoint, text: bytes | str) -> dict[str, Any]:
    try:
        note = parse_json(text)
    except ValueError:
        note = None
    if not isinstance(note, dict):
        raise CheckpointError(
            f"{checkpoint.path.name} has a damaged quantization note. Got {shown(text)}, need a "
            "JSON object. Download the file again."
        )
    return note
