"""The tensors of a umT5 file as core's own loader has them in the end."""

import json
from collections.abc import Iterator
from typing import Any

import comfy.utils
from torch import Tensor

from ....wan_model.loading import Checkpoint
from ....wan_model.loading.encodings import NOTES_IN_METADATA
from ....wan_model.loading.source import RawTensor
from ....wan_model.loading.text_encoder import TABLE, TABLE_AGAIN
from .tokenizer import TOKENIZER


def core_reads(checkpoint: Checkpoint) -> bool:
    """Whether core's own loader reads a file as it is."""
    names = {
        part.raw.name for entry in checkpoint.entries.values() for part in entry.parts.values()
    }
    own = all(name.startswith(("shared.", "encoder.")) for name in names)
    return own and TABLE in names and TOKENIZER in checkpoint.extras


def core_tensors(checkpoint: Checkpoint, tokenizer: Tensor) -> dict[str, Any]:
    """Returns a file's tensors by the names that core has for them, with a tokenizer."""
    path = str(checkpoint.path)
    loaded, metadata = comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
    tensors: dict[str, Any] = {}
    names: dict[str, str] = {}
    for layer, raw in _raw_tensors(checkpoint):
        # Core tells formats apart by how files spell their scales.
        before, _, leaf = raw.name.rpartition(".")
        tensors[f"{layer}.{leaf}" if layer else leaf] = loaded[raw.name]
        names[before] = layer
    if TABLE not in tensors:
        tensors[TABLE] = tensors.pop(TABLE_AGAIN)
    tensors[TOKENIZER] = tokenizer
    said = (metadata or {}).get(NOTES_IN_METADATA)
    notes = None if said is None else _renamed_notes(said, names)
    if hasattr(comfy.utils, "convert_old_quants"):
        about = {} if notes is None else {NOTES_IN_METADATA: notes}
        tensors, _ = comfy.utils.convert_old_quants(tensors, "", about)
    elif notes is not None:
        tensors[NOTES_IN_METADATA] = notes
    return tensors


def _raw_tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, RawTensor]]:
    """Yields every tensor with the name of its layer."""
    for entry in checkpoint.entries.values():
        for part in entry.parts.values():
            yield entry.layer, part.raw
    for name, raw in checkpoint.extras.items():
        yield name.rpartition(".")[0], raw


def _renamed_notes(notes: str, names: dict[str, str]) -> str:
    """Returns ComfyUI's notes in a file's metadata, for the layers that have new names."""
    said = json.loads(notes)
    layers = {names[key]: value for key, value in said["layers"].items() if key in names}
    return json.dumps({**said, "layers": layers})
