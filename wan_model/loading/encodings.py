"""How files spell weights: which stored dtypes, scales and notes mean which `WeightFormat`.

This is the only place that knows. A row of `ENCODINGS` makes a format readable and, if ComfyUI has
a name for it, writable with ComfyUI's note. Sources: ComfyUI (`convert_old_quants`, `quant_ops`),
musubi-tuner, LightX2V. What GGUF calls a type is its stored dtype.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..quant import GGUF_FORMATS, PLAIN, SCALED, StoredWeight, WeightFormat
from ..quant.formats import MXFP8, NVFP4
from .source import RawTensor
from .source_safetensors import DTYPES

NOTE = "comfy_quant"
"""Leaf of ComfyUI's note on a layer: JSON as bytes, {"format": "float8_e4m3fn", ...}."""

FLAGS = ("convrot",)
"""Of a note: fields that change what the codes mean."""

FLOATS = {name: dtype for dtype, name in DTYPES.items() if dtype.itemsize > 1}

ALIEN_LEAVES = {
    "weight_global_scale": "nvfp4 of LightX2V",
    "pre_quant_scale": "int4 (AWQ)",
    "qweight": "int4",
    "wscales": "int4 (SVDQuant)",
    "_data": "quanto int8",
    "absmax": "bitsandbytes",
    "quant_map": "bitsandbytes",
}
"""Last parts of key names that only files in formats without a row have."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """One way to store a weight in a file."""

    format: WeightFormat
    weight: str
    """Stored dtype of the weight tensor."""
    scales: Mapping[str, Mapping[str, torch.dtype]] = field(default_factory=dict)
    """By leaf: stored dtypes it may have, and what they are in memory."""
    note: str | None = None
    """What ComfyUI calls it."""
    flags: tuple[str, ...] = ()
    """`FLAGS` that the note has to have."""
    needs_note: bool = False
    """Whether its scales lie in an order of their own, so that only a note tells what they are."""

    def matches(self, weight: RawTensor, scale: RawTensor | None, flags: tuple[str, ...]) -> bool:
        """Whether a weight is stored this way, to judge by it and its first scale."""
        scaled = bool(self.scales)
        return (
            (self.weight, self.flags) == (weight.stored_dtype, flags)
            and scaled == (scale is not None)
            and (scale is None or scale.stored_dtype in self.scales["weight_scale"])
            and (not self.needs_note or len(weight.shape) == 2)
        )

    def can_note(self, stored: StoredWeight) -> bool:
        """Whether ComfyUI reads a weight of this format with these scales."""
        scale = stored.weight_scale
        if self.note is None or scale is None or self.format.block > 1:
            return self.note is not None
        rows = self.format is SCALED[torch.int8] and scale.ndim == 2
        return scale.numel() == 1 or rows


ENCODINGS = (
    Encoding(
        format=NVFP4,
        weight="U8",
        scales={
            "weight_scale": dict.fromkeys(("F8_E4M3", "U8"), torch.float8_e4m3fn),
            "weight_scale_2": FLOATS,
        },
        note="nvfp4",
        needs_note=True,
    ),
    Encoding(
        format=MXFP8,
        weight="F8_E4M3",
        scales={"weight_scale": dict.fromkeys(("F8_E8M0", "U8"), torch.uint8)},
        note="mxfp8",
        needs_note=True,
    ),
    *(
        Encoding(
            format=SCALED[dtype],
            weight=DTYPES[dtype],
            scales={"weight_scale": FLOATS},
            note={
                torch.float8_e4m3fn: "float8_e4m3fn",
                torch.float8_e5m2: "float8_e5m2",
                torch.int8: "int8_tensorwise",
            }.get(dtype),
        )
        for dtype in SCALED
    ),
    *(Encoding(format=PLAIN[dtype], weight=DTYPES[dtype]) for dtype in PLAIN),
    *(Encoding(format=packed, weight=packed.name) for packed in GGUF_FORMATS),
)

READABLE = (
    "fp32, bf16, fp16, fp8 (plain or scaled), int8 with scales, ComfyUI's nvfp4 or mxfp8, or "
    "GGUF's Q2_K to Q8_0, IQ4_NL or IQ4_XS"
)
"""For people."""


def find_encoding(
    weight: RawTensor, scale: RawTensor | None, note: Mapping[str, Any]
) -> Encoding | None:
    """Returns how a tensor is stored, None if that cannot be read."""
    flags = flags_of(note)
    return next((e for e in ENCODINGS if e.matches(weight, scale, flags)), None)


def is_known_dtype(raw: RawTensor) -> bool:
    """Whether tensors of this dtype can be weights, with a scale or without."""
    return any(e.weight == raw.stored_dtype and not e.needs_note for e in ENCODINGS)


def formats_called(note: object) -> list[Encoding]:
    """Returns the encodings that ComfyUI calls by a name."""
    return [encoding for encoding in ENCODINGS if encoding.note and encoding.note == note]


def flags_of(note: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the `FLAGS` that a note has, in itself or among its parameters."""
    params = note.get("params")
    both = (note, params if isinstance(params, dict) else {})
    return tuple(flag for flag in FLAGS if any(fields.get(flag) for fields in both))


def encoding_of(weight_format: WeightFormat) -> Encoding:
    """Returns how a format is stored in files that we write."""
    return next(encoding for encoding in ENCODINGS if encoding.format is weight_format)


def write_note(name: str) -> Tensor:
    """Returns ComfyUI's note for a layer in the format that it calls so."""
    text = json.dumps({"format": name}).encode()
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)
