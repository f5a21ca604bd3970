"""The weights of a checkpoint: each with its format, its logical shape, its scales and its place.

Scales of layer X are called X.weight_scale and X.weight_scale_2; ComfyUI's notes say more about
some formats, beside the weights or in the metadata. They are grouped once, when a file is opened.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..offload import FileRegion
from ..quant import PLAIN, StoredWeight, WeightFormat
from ..quant.packing import NOT_FINITE, swizzled_shape
from ..quant.rotated_formats import CODEBOOK_SIZE, INT4, W4A8
from .encodings import (
    ALIEN_LEAVES,
    NOTE,
    READABLE,
    Encoding,
    encoding_of,
    find_encoding,
    formats_called,
    is_known_dtype,
    rotation_of,
)
from .source import RawTensor, Reader, first_names, parse_json, shown

EXTRAS = (NOTE, "input_scale", "scaled_fp8", "spiece_model")
"""Leaves of tensors that are no weights: notes, activation scales, an embedded tokenizer."""

NOTED_KERNEL = ".comfy_attention."
"""In names of ComfyUI's notes on which attention kernel a layer prefers; a loader's choice here."""

NOTES_IN_METADATA = "_quantization_metadata"
MAX_NOTE_BYTES = 1 << 16


def is_block_matrix(name: str) -> bool:
    """Whether a tensor of this official name is the weight of a linear layer of a block.

    Everything else is small and sensitive: embeddings, time projection, modulation, norms, head.
    """
    return name.startswith("blocks.") and name.endswith(".weight") and ".norm" not in name


@dataclass(frozen=True, kw_only=True)
class WeightEntry:
    """One weight of a model, or any other of its tensors, as a file holds it."""

    name: str
    """Official name: "blocks.0.ffn.0.weight", "blocks.0.modulation"."""
    format: WeightFormat
    shape: tuple[int, ...]
    """Of the dequantized weight."""
    parts: dict[str, RawTensor]
    """By leaf: the tensor itself, and "weight_scale" and "weight_scale_2" where it has them."""
    regions: dict[str, FileRegion]
    """By leaf: where the parts lie, and what they are in memory."""

    @property
    def layer(self) -> str:
        """Official name of the module that the weight belongs to."""
        return self.name.rpartition(".")[0]

    @property
    def leaf(self) -> str:
        """Name of the tensor itself in that module."""
        return self.name.rpartition(".")[2]

    @property
    def is_plain(self) -> bool:
        """Whether the tensor is the weight itself, without scales."""
        return self.format is PLAIN.get(self.format.dtype)

    @property
    def is_bare(self) -> bool:
        """Whether these are codes without a scale, which then is one."""
        return self.format.is_quantized and self.is_plain

    @property
    def dense_dtype(self) -> torch.dtype:
        """Of what `read_dense` returns."""
        return self.format.dtype if self.is_plain else torch.float32

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return sum(part.nbytes for part in self.parts.values())

    @property
    def is_block_matrix(self) -> bool:
        """Whether this is a linear layer of a transformer's block, which may have few bits."""
        return is_block_matrix(self.name)

    def read(self, read: Reader) -> StoredWeight:
        """Reads the weight and its scales.

        Raises:
            CheckpointError: for scales that are broken or of a wrong shape.
        """
        leaf, *scales = self.parts
        tensors = {leaf: read(part, self.regions[leaf].dtype) for leaf, part in self.parts.items()}
        others = {name: self._checked(name, tensors[name]) for name in scales}
        return StoredWeight(self.format, tensors[leaf], **others)

    def read_dense(self, read: Reader) -> Tensor:
        """Reads the weight as numbers, for a layer that has no place for scales: a convolution."""
        stored = self.read(read)
        if self.is_plain:
            return stored.weight
        if stored.weight_scale is not None:
            stored = replace(stored, weight=stored.weight.flatten(1))
        return stored.dequantize(torch.float32).view(self.shape)

    def _checked(self, leaf: str, scale: Tensor) -> Tensor:
        """Returns a scale as `quant` takes it: see `Stored` and `scale_weight`."""
        part, weight_format = self.parts[leaf], self.format.base or self.format
        if leaf in ("weight_codebook", "pre_quant_scale") or weight_format is W4A8:
            return self._checked_vector(leaf, scale)
        if self.format.block > 1 and leaf == "weight_scale":
            rows, columns = self.shape
            need = swizzled_shape(rows, -(-columns // self.format.block))
            if not self.format.fits(self.shape) or part.shape != need:
                raise self._wrong_shape(part, f"{list(need)}")
            values = scale.float()
            if scale.dtype == torch.uint8:
                values.masked_fill_(scale == NOT_FINITE, torch.nan)
            _check_finite(part, values)
            return scale
        values = scale.float()
        _check_finite(part, values)
        if values.numel() == 1:
            return values.reshape(())
        rows, columns = self.shape[0], math.prod(self.shape[1:])
        of_rows = leaf == "weight_scale"
        if of_rows and values.shape in ((rows,), (rows, 1)):
            return values.reshape(rows, 1)
        if of_rows and weight_format is not INT4:
            blocks = values.shape[1] if values.ndim == 3 else 0
            if bool(blocks) and columns % blocks == 0 and values.shape == (rows, blocks, 1):
                return values
            if values.ndim == 2 and _square_tiles(rows, columns, *values.shape):
                return values.unsqueeze(2)
        need = f"[1], [{rows}, 1] or [{rows}, blocks, 1]" if of_rows else "[1]"
        raise self._wrong_shape(part, need)

    def _checked_vector(self, leaf: str, scale: Tensor) -> Tensor:
        """Returns what has one shape in every file; scales of groups in their own dtype."""
        part, (rows, columns) = self.parts[leaf], self.shape
        groups = part.shape[-1] if leaf == "weight_scale" and part.shape else 0
        need = {
            "weight_scale": (rows, groups),
            "weight_scale_2": (rows,),
            "weight_codebook": (CODEBOOK_SIZE,),
            "pre_quant_scale": (columns,),
        }[leaf]
        if part.shape != need or not self.format.fits(self.shape):
            raise self._wrong_shape(part, f"{list(need)}")
        if leaf == "weight_scale" and (groups == 0 or columns % groups):
            raise self._wrong_shape(part, f"[{rows}, groups]")
        _check_finite(part, scale.float())
        return scale if leaf == "weight_scale" else scale.float()

    def _wrong_shape(self, part: RawTensor, need: str) -> CheckpointError:
        return CheckpointError(
            f"{part.file.name} holds a scale of a wrong shape. Got {list(part.shape)} in "
            f"{shown(part.name)}, need {need} for a weight of shape {list(self.shape)}. Choose "
            "another version of the model."
        )


def _square_tiles(rows: int, columns: int, down: int, across: int) -> bool:
    """Whether so many scales down and across are those of square tiles of a weight."""
    divides = bool(down and across) and rows % down == 0 and columns % across == 0
    return divides and rows // down == columns // across


def _check_finite(part: RawTensor, values: Tensor) -> None:
    """Refuses infinity and NaN; tensors without data pass."""
    if values.is_meta or bool(values.isfinite().all()):
        return
    broken = values[~values.isfinite()][0].item()
    raise CheckpointError(
        f"{part.file.name} holds broken scales. Got {broken} in {shown(part.name)}, need finite "
        "values. Download the file again, or choose another version of the model."
    )


@dataclass(frozen=True, kw_only=True)
class _Note:
    """What ComfyUI says of a layer."""

    name: str
    """Of the note in the file."""
    fields: Mapping[str, Any]


def group(
    file: str,
    tensors: Mapping[str, RawTensor],
    metadata: Mapping[str, str],
    official: Callable[[str], str | None],
) -> dict[str, WeightEntry]:
    """Puts every weight together with its scales and its note.

    Args:
        file: of the checkpoint, for messages.
        tensors: by official name.
        metadata: of the file.
        official: from a tensor's name in the file to the official one, None for other models'.

    Raises:
        CheckpointError: for formats that cannot be read, weights without their scales, and notes
            that contradict the tensors.
    """
    _refuse_aliens(file, tensors)
    notes = dict(_notes(file, tensors, metadata, official))
    entries: dict[str, WeightEntry] = {}
    scales: set[str] = set()
    incomplete: list[str] = []
    matrices = {n: n[:-7] for n, raw in tensors.items() if n.endswith(".weight") and raw.shape[1:]}
    for name in dict.fromkeys((*matrices, *tensors)):
        if name in scales or name.rpartition(".")[2] in EXTRAS or NOTED_KERNEL in name:
            continue
        layer, leaf = matrices.get(name), name.rpartition(".")[2]
        scale = None if layer is None else tensors.get(f"{layer}.weight_scale")
        note = None if layer is None else notes.get(layer)
        encoding = _encoding(file, tensors[name], scale, note)
        needed = {scale: f"{layer}.{scale}" for scale in encoding.scales} if encoding else {}
        if encoding is None or not all(scale in tensors for scale in needed.values()):
            incomplete.append(name)
            continue
        beside = {part: f"{layer}.{part}" for part in encoding.optional}
        needed |= {part: full for part, full in beside.items() if full in tensors}
        scales |= set(needed.values())
        parts = {leaf: tensors[name]} | {scale: tensors[full] for scale, full in needed.items()}
        entries[name] = _entry(name, encoding, parts)
    if scales or "scaled_fp8" in tensors:
        incomplete += [n for n in matrices if n in entries and entries[n].is_bare]
    if incomplete:
        raise CheckpointError(
            f"{file} lacks scales. Got {len(incomplete)} quantized weights without one "
            f"({first_names(incomplete)}), need a weight_scale for each, in nvfp4 a weight_scale_2 "
            "as well. Download the file again."
        )
    for layer, note in notes.items():
        _check_note(file, note, entries.get(f"{layer}.weight"))
    return entries


def _refuse_aliens(file: str, tensors: Mapping[str, RawTensor]) -> None:
    """Refuses formats that have no row, by the names of their tensors."""
    for name, raw in tensors.items():
        layer, _, leaf = name.rpartition(".")
        alien = ALIEN_LEAVES.get(leaf)
        if leaf == "pre_quant_scale" and f"{layer}.weight_scale_2" in tensors:
            continue  # of nvfp4
        if alien is not None:
            raise unsupported(file, alien, raw.name)


def _encoding(
    file: str, raw: RawTensor, scale: RawTensor | None, note: _Note | None
) -> Encoding | None:
    """Returns how a tensor is stored, None if it is a weight that lacks its scale."""
    found = find_encoding(raw, scale, note.fields if note else {})
    if found is not None:
        if found.needs_note and note is None:
            raise unsupported(file, f"{found.format.name} without ComfyUI's notes", raw.name)
        return found
    if note is not None and scale is not None and (size := rotation_of(note.fields)):
        what = f"{shown(note.fields.get('format'))} with convrot in groups of {size}"
        raise unsupported(file, f"{what} for {raw.stored_dtype} weights", note.name)
    known = is_known_dtype(raw)
    if scale is None and known and raw.name.endswith(".weight"):
        return None
    blamed = scale if scale is not None and known else raw
    raise unsupported(file, f"{blamed.stored_dtype} tensors", blamed.name)


def _entry(name: str, encoding: Encoding, parts: dict[str, RawTensor]) -> WeightEntry:
    leaf = next(iter(parts))
    dtypes = {leaf: encoding.format.dtype}
    for part, kinds in {**encoding.scales, **encoding.optional}.items():
        if part in parts:
            stored = parts[part].stored_dtype
            if stored not in kinds:
                raise unsupported(parts[part].file.name, f"{stored} tensors", parts[part].name)
            dtypes[part] = kinds[stored]
    return WeightEntry(
        name=name,
        format=encoding.format,
        shape=encoding.format.shape(parts[leaf].shape),
        parts=parts,
        regions={
            part: FileRegion(raw.file, raw.start, raw.nbytes, dtypes[part])
            for part, raw in parts.items()
        },
    )


def _notes(
    file: str,
    tensors: Mapping[str, RawTensor],
    metadata: Mapping[str, str],
    official: Callable[[str], str | None],
) -> Iterator[tuple[str, _Note]]:
    """Yields the note of every layer that has one, by the layer's official name."""
    read = Reader()
    for name, raw in tensors.items():
        layer, _, leaf = name.rpartition(".")
        if leaf == NOTE:
            flat = replace(raw, shape=(raw.nbytes,))
            small = raw.nbytes <= MAX_NOTE_BYTES
            text = read(flat, torch.uint8).numpy().tobytes() if small else b""
            yield layer, _note(file, raw.name, _json_object(file, text))
    text = metadata.get(NOTES_IN_METADATA)
    layers = {} if text is None else _json_object(file, text).get("layers", {})
    for name, fields in layers.items() if isinstance(layers, dict) else ():
        weight = official(f"{name}.weight")
        if weight is None:
            continue
        note = fields if isinstance(fields, dict) else {"format": fields}
        yield weight.removesuffix(".weight"), _note(file, name, note)


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


def _note(file: str, name: str, fields: Mapping[str, Any]) -> _Note:
    """Refuses notes of a format that cannot be read."""
    if not formats_called(fields.get("format")):
        raise unsupported(file, shown(fields.get("format")), name)
    return _Note(name=name, fields=fields)


def _check_note(file: str, note: _Note, entry: WeightEntry | None) -> None:
    """Refuses a note on scales in an order of their own that the layer does not have, or others."""
    called = formats_called(note.fields["format"])
    said = next((encoding.format for encoding in called if encoding.needs_note), None)
    found = entry.format if entry and encoding_of(entry.format).needs_note else None
    if said is not found:
        raise CheckpointError(
            f"{file} contradicts itself. Got the note {note.fields['format']} in "
            f"{shown(note.name)}, need one that fits the layer's tensors"
            f"{f', {found.name}' if found else ''}. Choose another version of the model."
        )


def unsupported(file: str, what: str, name: str) -> CheckpointError:
    """Returns the error for tensors in a format that cannot be read."""
    return CheckpointError(
        f"The weight format of {file} is not supported yet. Got {what} in {shown(name)}, need "
        f"{READABLE}. Choose another version of the model."
    )
