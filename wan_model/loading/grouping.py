"""From the tensors of a checkpoint to its weights, each with its scales and its note.

Scales of layer X are called X.weight_scale and X.weight_scale_2; ComfyUI's notes say more about
some formats, beside the weights or in the metadata. They are grouped once, when a file is opened.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from ..errors import CheckpointError
from .encodings import ALIEN_LEAVES, NOTE, NOTES_IN_METADATA, Note, find_encoding, unsupported
from .entries import WeightEntry
from .keymap import Component
from .source import RawTensor, Reader, first_names, shown
from .source_safetensors import parse_json

MARK = "scaled_fp8"
"""Tensor of ComfyUI's older files that says that there are scales."""
MARKED_FULL = 2
"""Elements of it in files that ask for dequantized matmuls."""

EXTRAS: tuple[str, ...] = (NOTE, "input_scale", MARK, "spiece_model")
"""Leaves of tensors that are no weights: notes, activation scales, an embedded tokenizer."""

PASSENGERS: tuple[tuple[re.Pattern[str], str | None], ...] = (
    # ComfyUI's own wish for an attention kernel; ours is chosen at the loader.
    (re.compile(r"(.*\.)?comfy_attention\..*"), None),
    (
        re.compile(r"blocks\.\d+\.(self_attn|attn1)\.(.*\.)?proj_l\.(weight|bias)"),
        "The file has branches for sparse-linear attention (SLA, proj_l). They are not used: they "
        "make up for what a sparse kernel leaves out, and attention is dense here.",
    ),
)
"""Tensors that a model computes without, by their whole official names, and what people should
know of them."""

MAX_NOTE_BYTES = 1 << 16


def group(
    file: str,
    component: Component,
    tensors: Mapping[str, RawTensor],
    metadata: Mapping[str, str],
    official: Callable[[str], str | None],
) -> tuple[dict[str, WeightEntry], dict[str, RawTensor], tuple[str, ...]]:
    """Puts every weight together with its scales and its note.

    Args:
        file: of the checkpoint, for messages.
        component: what it is. Only transformers have weights with scales of blocks in few bits.
        tensors: by official name.
        metadata: of the file.
        official: from a tensor's name in the file to the official one, None for other models'.

    Returns:
        weights and tensors that are none, by official name, and remarks on what is not used.

    Raises:
        CheckpointError: for formats that cannot be read, weights without their scales, and notes
            that contradict the tensors.
    """
    layers, remarks = _layers(tensors)
    _refuse_aliens(file, layers)
    notes = dict(_notes(file, layers, metadata, official))
    entries: dict[str, WeightEntry] = {}
    incomplete: list[str] = []
    mark = layers.get("", {}).get(MARK)
    of_all = mark is not None and math.prod(mark.shape) == MARKED_FULL
    for layer, leaves in layers.items():
        for name, entry in _entries(file, layer, leaves, notes.get(layer), of_all):
            if entry is None:
                incomplete.append(name)
            elif component != "dit" and entry.format.block > 1 and len(entry.parts) > 1:
                what = f"{entry.format.name} of a {component}"
                raise unsupported(file, what, tensors[name].name)
            else:
                entries[name] = entry
    extras = {
        f"{layer}.{leaf}" if layer else leaf: raw
        for layer, leaves in layers.items()
        for leaf, raw in leaves.items()
        if leaf in EXTRAS
    }
    if MARK in extras or any(len(entry.parts) > 1 for entry in entries.values()):
        matrices = [n for n, e in entries.items() if n.endswith(".weight") and e.shape[1:]]
        incomplete += [name for name in matrices if entries[name].format.is_bare]
    if incomplete:
        raise CheckpointError(
            f"{file} lacks scales. Got {len(incomplete)} quantized weights without one "
            f"({first_names(incomplete)}), need a weight_scale for each, in nvfp4 a weight_scale_2 "
            "as well. Download the file again."
        )
    for layer, note in notes.items():
        entry = entries.get(f"{layer}.weight")
        note.check(file, entry.format if entry else None)
    return entries, extras, remarks


def _entries(
    file: str,
    layer: str,
    leaves: Mapping[str, RawTensor],
    note: Note | None,
    of_all: bool,
) -> Iterator[tuple[str, WeightEntry | None]]:
    """Yields a layer's tensors with what belongs to them, None for weights that lack scales.

    A layer's note says whether its matmul is to be in full precision, else what holds `of_all`.
    """
    used = set[str](EXTRAS)
    for leaf in sorted(leaves, key=lambda leaf: leaf != "weight"):
        if leaf in used:
            continue
        name, raw = f"{layer}.{leaf}" if layer else leaf, leaves[leaf]
        is_matrix = leaf == "weight" and bool(layer and raw.shape[1:])
        scale = leaves.get("weight_scale") if is_matrix else None
        encoding = find_encoding(file, raw, scale, note if is_matrix else None)
        if encoding is None or not leaves.keys() >= encoding.scales.keys():
            yield name, None
            continue
        beside = [part for part in (*encoding.scales, *encoding.optional) if part in leaves]
        shape = encoding.format.shape(raw.shape)
        used.update(beside)
        yield (
            name,
            WeightEntry(
                name=name,
                format=encoding.format,
                shape=shape,
                parts={part: encoding.part(part, leaves[part], shape) for part in (leaf, *beside)},
                full_precision=note.full_precision if note else of_all,
            ),
        )


def _layers(
    tensors: Mapping[str, RawTensor],
) -> tuple[dict[str, dict[str, RawTensor]], tuple[str, ...]]:
    """Returns tensors by layer and leaf, without passengers, and the remarks on those."""
    layers: dict[str, dict[str, RawTensor]] = {}
    remarks: dict[str, None] = {}
    for name, raw in tensors.items():
        passed = [remark for pattern, remark in PASSENGERS if pattern.fullmatch(name)]
        if not passed:
            layer, _, leaf = name.rpartition(".")
            layers.setdefault(layer, {})[leaf] = raw
        remarks |= {remark: None for remark in passed if remark is not None}
    return layers, tuple(remarks)


def _refuse_aliens(file: str, layers: Mapping[str, Mapping[str, RawTensor]]) -> None:
    """Refuses formats that have no row, by the names of their tensors."""
    for leaves in layers.values():
        for leaf, raw in leaves.items():
            alien = ALIEN_LEAVES.get(leaf)
            if leaf == "pre_quant_scale" and "weight_scale_2" in leaves:
                continue  # of nvfp4
            if alien is not None:
                raise unsupported(file, alien, raw.name)


def _notes(
    file: str,
    layers: Mapping[str, Mapping[str, RawTensor]],
    metadata: Mapping[str, str],
    official: Callable[[str], str | None],
) -> Iterator[tuple[str, Note]]:
    """Yields the note of every layer that has one, by the layer's official name."""
    beside = {layer: leaves[NOTE] for layer, leaves in layers.items() if NOTE in leaves}
    read = Reader()
    for layer, raw in beside.items():
        flat = replace(raw, shape=(raw.nbytes,))
        small = raw.nbytes <= MAX_NOTE_BYTES
        text = read(flat, torch.uint8).numpy().tobytes() if small else b""
        yield layer, Note.of(file, raw.name, _json_object(file, text))
    text = metadata.get(NOTES_IN_METADATA)
    said = {} if text is None else _json_object(file, text).get("layers", {})
    for key, fields in said.items() if isinstance(said, dict) else ():
        weight = official(f"{key}.weight")
        if weight is not None:
            note = fields if isinstance(fields, dict) else {"format": fields}
            yield weight.removesuffix(".weight"), Note.of(file, key, note)


def _json_object(file: str, text: bytes | str) -> dict[str, Any]:
    try:
        fields = parse_json(text)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise CheckpointError(
            f"{file} has a damaged quantization note. Got {shown(text)}, need a JSON object. "
            "Download the file again."
        )
    return fields
