"""How files spell weights: which stored dtypes, scales and notes mean which `WeightFormat`.

This is the only place that knows. A row of `ENCODINGS` makes a format readable and, if ComfyUI has
a name for it, writable with ComfyUI's note. Sources: ComfyUI (`convert_old_quants`, `quant_ops`),
musubi-tuner, LightX2V. What GGUF calls a type is its stored dtype.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..quant import GGUF_FORMATS, PLAIN, SCALED, StoredWeight, WeightFormat
from ..quant.formats import MXFP8, NVFP4
from ..quant.packing import swizzled_shape
from ..quant.rotated_formats import (
    CODEBOOK_SIZE,
    CONVROT_INT4,
    CONVROT_INT8,
    CONVROT_W4A8,
    INT4,
    W4A8,
)
from ..quant.rotation import ROTATIONS
from .entries import Part
from .source import RawTensor, shown
from .source_safetensors import DTYPES

NOTE = "comfy_quant"
"""Leaf of ComfyUI's note on a layer: JSON as bytes, {"format": "float8_e4m3fn", ...}."""

NOTES_IN_METADATA = "_quantization_metadata"
"""Key of ComfyUI's notes in a file's metadata: JSON, {"layers": {layer: note}}."""

Dtypes = Mapping[str, torch.dtype]
"""By stored dtype, what it is in memory."""

FLOATS = {name: dtype for dtype, name in DTYPES.items() if dtype.itemsize > 1}

ALIEN_LEAVES = {
    "weight_global_scale": "nvfp4 of LightX2V",
    "pre_quant_scale": "AWQ (pre_quant_scale) of another format than nvfp4",
    "qweight": "int4 (GPTQ or AWQ)",
    "qzeros": "int4 (GPTQ or AWQ)",
    "wscales": "int4 (SVDQuant)",
    "smooth_factor": "int4 (SVDQuant)",
    "_data": "quanto int8",
    "_weight_qdata": "torchao int8",
    "SCB": "bitsandbytes int8",
    "weight_format": "bitsandbytes int8",
    "absmax": "bitsandbytes of 4 bits",
    "quant_map": "bitsandbytes of 4 bits",
    "bitsandbytes__nf4": "bitsandbytes of 4 bits",
    "bitsandbytes__fp4": "bitsandbytes of 4 bits",
    "int8_weight": "int8 of TurboDiffusion, which `python -m wan_model.convert` reads,",
}
"""Last parts of key names that only files in formats without a row have. A row may take one."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """One way to store a weight in a file.

    Rotated weights look like others; they are these where a note says so.
    """

    format: WeightFormat
    weight: str
    """Stored dtype of the weight tensor."""
    scales: Mapping[str, Dtypes] = field(default_factory=dict)
    """By leaf: stored dtypes it may have, and what they are in memory."""
    optional: Mapping[str, Dtypes] = field(default_factory=dict)
    """The same of what a weight may have or not."""
    names: tuple[str, ...] = ()
    """What notes may call it, ComfyUI's own name first."""
    needs_note: bool = False
    """Whether its scales lie in an order of their own, so that only a note tells what they are."""
    leaves: Mapping[str, str] = field(default_factory=dict)
    """Parts that files call otherwise than we do."""

    @property
    def note(self) -> str | None:
        """What ComfyUI calls it."""
        return self.names[0] if self.names else None

    def matches(self, weight: RawTensor, scale: RawTensor | None) -> bool:
        """Whether a weight is stored this way, to judge by it and its first scale."""
        dtypes = self.scales.get("weight_scale")
        only_matrices = self.needs_note or self.format.rotation
        return (
            self.weight == weight.stored_dtype
            and (scale is None if dtypes is None else bool(scale) and scale.stored_dtype in dtypes)
            and (not only_matrices or len(weight.shape) == 2)
        )

    def part(self, leaf: str, raw: RawTensor, shape: tuple[int, ...]) -> Part:
        """Returns what a tensor is in memory.

        Args:
            leaf: what it is of its weight.
            raw: as it is stored.
            shape: of the dequantized weight.

        Raises:
            CheckpointError: for a scale of a dtype that cannot be read, or of a wrong shape.
        """
        dtypes = {**self.scales, **self.optional}.get(leaf)
        if dtypes is None:
            return Part(raw, self.format.dtype, raw.shape)
        if raw.stored_dtype not in dtypes:
            raise unsupported(raw.file.name, f"{raw.stored_dtype} tensors", raw.name)
        found, need = _scale_shape(self.format, leaf, raw.shape, shape)
        if found is None:
            raise CheckpointError(
                f"{raw.file.name} holds a scale of a wrong shape. Got {list(raw.shape)} in "
                f"{shown(raw.name)}, need {need} for a weight of shape {list(shape)}. Choose "
                "another version of the model."
            )
        return Part(raw, dtypes[raw.stored_dtype], found)

    def can_note(self, stored: StoredWeight) -> bool:
        """Whether ComfyUI reads a weight of this format with these scales."""
        scale = stored.weight_scale
        if self.note is None or scale is None or self.format.block > 1:
            return self.note is not None
        rows = self.format.rotation or self.format is SCALED[torch.int8]
        return scale.numel() == 1 or (bool(rows) and scale.ndim == 2)


_E4M3: Dtypes = dict.fromkeys(("F8_E4M3", "U8"), torch.float8_e4m3fn)

_SCALED_NAMES = {
    torch.float8_e4m3fn: ("float8_e4m3fn", "float8_e4m3fn_rowwise", "float8_e4m3fn_blockwise"),
    torch.float8_e5m2: ("float8_e5m2",),
    torch.int8: ("int8_tensorwise", "int8_rowwise", "int8_blockwise"),
}

ENCODINGS = (
    Encoding(
        format=NVFP4,
        weight="U8",
        scales={"weight_scale": _E4M3, "weight_scale_2": FLOATS},
        optional={"pre_quant_scale": FLOATS},
        names=("nvfp4",),
        needs_note=True,
    ),
    Encoding(
        format=MXFP8,
        weight="F8_E4M3",
        scales={"weight_scale": dict.fromkeys(("F8_E8M0", "U8"), torch.uint8)},
        names=("mxfp8",),
        needs_note=True,
    ),
    *(
        Encoding(
            format=SCALED[dtype],
            weight=DTYPES[dtype],
            scales={"weight_scale": FLOATS},
            names=_SCALED_NAMES.get(dtype, ()),
        )
        for dtype in SCALED
    ),
    *(
        Encoding(format=formats[size], weight="I8", scales={"weight_scale": FLOATS}, names=(name,))
        for formats, name in ((CONVROT_INT8, "int8_tensorwise"), (CONVROT_INT4, "convrot_w4a4"))
        for size in ROTATIONS
    ),
    *(
        Encoding(
            format=CONVROT_W4A8[size],
            weight="I8",
            scales={
                "weight_scale": {**_E4M3, "F32": torch.float32},
                "weight_scale_2": FLOATS,
            },
            optional={"weight_codebook": FLOATS},
            names=("asym_w4a8_int8",),
            leaves={"weight_scale": "weight_s_rel", "weight_scale_2": "weight_s_channel"},
        )
        for size in ROTATIONS
    ),
    *(Encoding(format=PLAIN[dtype], weight=DTYPES[dtype]) for dtype in PLAIN),
    *(Encoding(format=packed, weight=packed.name) for packed in GGUF_FORMATS),
)

READABLE = (
    "fp32, bf16, fp16, fp8 (plain or scaled), int8 with scales, ComfyUI's nvfp4, mxfp8, int8 or "
    "int4 with convrot, or GGUF's Q2_K to Q8_0, IQ4_NL or IQ4_XS"
)
"""For people."""


@dataclass(frozen=True, kw_only=True)
class Note:
    """What ComfyUI says of a layer."""

    name: str
    """Of the note in the file."""
    format: str
    """ComfyUI's name of it."""
    encodings: tuple[Encoding, ...]
    """Those that are called so."""
    rotation: int
    """Inputs in a rotated group; 0 for none, -1 for nonsense."""
    full_precision: bool
    """Whether the layer's codes are to be dequantized before they are multiplied."""

    @classmethod
    def of(cls, file: str, name: str, fields: Mapping[str, Any]) -> "Note":
        """Refuses notes of a format that cannot be read."""
        said = fields.get("format")
        encodings = tuple(one for one in ENCODINGS if said in one.names)
        if not encodings:
            raise unsupported(file, shown(said), name)
        params = fields.get("params")
        of_rotation = {**(params if isinstance(params, dict) else {}), **fields}
        rotation = 0
        if of_rotation.get("convrot") or all(one.format.rotation for one in encodings):
            size = of_rotation.get("convrot_groupsize", ROTATIONS[0])
            rotation = size if type(size) is int and size > 0 else -1
        return cls(
            name=name,
            format=str(said),
            encodings=encodings,
            rotation=rotation,
            full_precision=fields.get("full_precision_matrix_mult") is True,
        )

    def check(self, file: str, found: WeightFormat | None) -> None:
        """Refuses to speak of scales in an order that the layer's are not in, or of others."""
        said = next((one.format for one in self.encodings if one.needs_note), None)
        found = found if found and encoding_of(found).needs_note else None
        if said is not found:
            raise CheckpointError(
                f"{file} contradicts itself. Got the note {self.format} in "
                f"{shown(self.name)}, need one that fits the layer's tensors"
                f"{f', {found.name}' if found else ''}. Choose another version of the model."
            )


def find_encoding(
    file: str, weight: RawTensor, scale: RawTensor | None, note: Note | None
) -> Encoding | None:
    """Returns how a tensor is stored, to judge by it, its first scale and its note.

    Returns:
        None if it is a weight that lacks its scale.

    Raises:
        CheckpointError: if it is in a format that cannot be read.
    """
    rotation = note.rotation if note else 0
    found = next(
        (
            one
            for one in ENCODINGS
            if one.matches(weight, scale) and one.format.rotation == rotation
            if not (note and rotation) or one in note.encodings
        ),
        None,
    )
    if found is not None:
        if found.needs_note and note is None:
            raise unsupported(file, f"{found.format.name} without ComfyUI's notes", weight.name)
        return found
    if note is not None and scale is not None and rotation:
        what = f"{shown(note.format)} with convrot in groups of {rotation}"
        raise unsupported(file, f"{what} for {weight.stored_dtype} weights", note.name)
    known = any(e.weight == weight.stored_dtype and not e.needs_note for e in ENCODINGS)
    if scale is None and known and weight.name.endswith(".weight"):
        return None
    blamed = scale if scale is not None and known else weight
    raise unsupported(file, f"{blamed.stored_dtype} tensors", blamed.name)


def unsupported(file: str, what: str, name: str) -> CheckpointError:
    """Returns the error for tensors in a format that cannot be read."""
    return CheckpointError(
        f"The weight format of {file} is not supported yet. Got {what} in {shown(name)}, need "
        f"{READABLE}. Choose another version of the model."
    )


def _scale_shape(
    weight_format: WeightFormat, leaf: str, stored: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[tuple[int, ...] | None, str]:
    """Returns the shape in which `quant` takes a scale, None for a wrong one; and what files need.

    Args:
        weight_format: of the weight.
        leaf: which of its scales.
        stored: shape in the file.
        shape: of the dequantized weight.
    """
    rows, columns = shape[0], math.prod(shape[1:])
    of_rows, groups = leaf == "weight_scale", stored[-1] if stored else 0
    fixed: tuple[int, ...] | None = None
    if leaf == "weight_codebook":
        fixed = (CODEBOOK_SIZE,)
    elif leaf == "pre_quant_scale":
        fixed = (columns,)
    elif weight_format.base is W4A8:
        if of_rows and not _divides(groups, columns):
            return None, f"[{rows}, groups]"
        fixed = (rows, groups) if of_rows else (rows,)
    elif weight_format.block > 1 and of_rows:
        fixed = swizzled_shape(rows, -(-columns // weight_format.block))
    if fixed is not None:
        return (fixed if stored == fixed and weight_format.fits(shape) else None), f"{list(fixed)}"
    found = None
    if math.prod(stored) == 1:
        found = ()
    elif of_rows and stored in ((rows,), (rows, 1)):
        found = (rows, 1)
    elif of_rows and weight_format.base is not INT4:
        if len(stored) == 3 and stored[::2] == (rows, 1) and _divides(stored[1], columns):
            found = stored
        elif len(stored) == 2 and _square_tiles(rows, columns, *stored):
            found = (*stored, 1)
    return found, f"[1], [{rows}, 1] or [{rows}, blocks, 1]" if of_rows else "[1]"


def _divides(count: int, whole: int) -> bool:
    return count > 0 and whole % count == 0


def _square_tiles(rows: int, columns: int, down: int, across: int) -> bool:
    """Whether so many scales down and across are those of square tiles of a weight."""
    divides = _divides(down, rows) and _divides(across, columns)
    return divides and rows // down == columns // across


def encoding_of(weight_format: WeightFormat) -> Encoding:
    """Returns how a format is stored in files that we write."""
    return next(encoding for encoding in ENCODINGS if encoding.format is weight_format)


def write_note(encoding: Encoding) -> Tensor:
    """Returns ComfyUI's note for a layer that is stored so."""
    fields: dict[str, object] = {"format": encoding.note}
    if encoding.format.rotation:
        fields |= {"convrot": True, "convrot_groupsize": encoding.format.rotation}
    return torch.frombuffer(bytearray(json.dumps(fields).encode()), dtype=torch.uint8)
