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
from ..quant.rotated_formats import CONVROT_INT4, CONVROT_INT8, CONVROT_W4A8
from ..quant.rotation import ROTATIONS
from .source import RawTensor
from .source_safetensors import DTYPES

NOTE = "comfy_quant"
"""Leaf of ComfyUI's note on a layer: JSON as bytes, {"format": "float8_e4m3fn", ...}."""

ROTATION = 256
"""Inputs in a rotated group, where a note does not tell."""

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
    """One way to store a weight in a file."""

    format: WeightFormat
    weight: str
    """Stored dtype of the weight tensor."""
    scales: Mapping[str, Mapping[str, torch.dtype]] = field(default_factory=dict)
    """By leaf: stored dtypes it may have, and what they are in memory."""
    optional: Mapping[str, Mapping[str, torch.dtype]] = field(default_factory=dict)
    """The same of what a weight may have or not."""
    note: str | None = None
    """What ComfyUI calls it."""
    aliases: tuple[str, ...] = ()
    """What other tools call it in a note."""
    needs_note: bool = False
    """Whether its scales lie in an order of their own, so that only a note tells what they are."""
    told: bool = False
    """Whether codes and scales look like others, and are these where a note says so."""
    leaves: Mapping[str, str] = field(default_factory=dict)
    """Parts that files call otherwise than we do."""

    @property
    def names(self) -> tuple[str, ...]:
        """What notes may call it."""
        return (() if self.note is None else (self.note,)) + self.aliases

    def matches(self, weight: RawTensor, scale: RawTensor | None, note: Mapping[str, Any]) -> bool:
        """Whether a weight is stored this way, to judge by its note, it and its first scale."""
        scaled = bool(self.scales)
        return (
            self.weight == weight.stored_dtype
            and self.format.rotation == rotation_of(note)
            and (not self.told or note.get("format") in self.names)
            and scaled == (scale is not None)
            and (scale is None or scale.stored_dtype in self.scales["weight_scale"])
            and (not (self.needs_note or self.told) or len(weight.shape) == 2)
        )

    def can_note(self, stored: StoredWeight) -> bool:
        """Whether ComfyUI reads a weight of this format with these scales."""
        scale = stored.weight_scale
        if self.note is None or scale is None or self.format.block > 1:
            return self.note is not None
        rows = self.told or self.format is SCALED[torch.int8]
        return scale.numel() == 1 or (rows and scale.ndim == 2)


ENCODINGS = (
    Encoding(
        format=NVFP4,
        weight="U8",
        scales={
            "weight_scale": dict.fromkeys(("F8_E4M3", "U8"), torch.float8_e4m3fn),
            "weight_scale_2": FLOATS,
        },
        optional={"pre_quant_scale": FLOATS},
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
            aliases={
                torch.float8_e4m3fn: ("float8_e4m3fn_rowwise", "float8_e4m3fn_blockwise"),
                torch.int8: ("int8_rowwise", "int8_blockwise"),
            }.get(dtype, ()),
        )
        for dtype in SCALED
    ),
    *(
        encoding
        for size in ROTATIONS
        for encoding in (
            Encoding(
                format=CONVROT_INT8[size],
                weight="I8",
                scales={"weight_scale": FLOATS},
                note="int8_tensorwise",
                told=True,
            ),
            Encoding(
                format=CONVROT_INT4[size],
                weight="I8",
                scales={"weight_scale": FLOATS},
                note="convrot_w4a4",
                told=True,
            ),
            Encoding(
                format=CONVROT_W4A8[size],
                weight="I8",
                scales={
                    "weight_scale": {
                        **dict.fromkeys(("F8_E4M3", "U8"), torch.float8_e4m3fn),
                        "F32": torch.float32,
                    },
                    "weight_scale_2": FLOATS,
                },
                optional={"weight_codebook": FLOATS},
                note="asym_w4a8_int8",
                told=True,
                leaves={"weight_scale": "weight_s_rel", "weight_scale_2": "weight_s_channel"},
            ),
        )
    ),
    *(Encoding(format=PLAIN[dtype], weight=DTYPES[dtype]) for dtype in PLAIN),
    *(Encoding(format=packed, weight=packed.name) for packed in GGUF_FORMATS),
)

READABLE = (
    "fp32, bf16, fp16, fp8 (plain or scaled), int8 with scales, ComfyUI's nvfp4, mxfp8, int8 or "
    "int4 with convrot, or GGUF's Q2_K to Q8_0, IQ4_NL or IQ4_XS"
)
"""For people."""


def find_encoding(
    weight: RawTensor, scale: RawTensor | None, note: Mapping[str, Any]
) -> Encoding | None:
    """Returns how a tensor is stored, None if that cannot be read."""
    return next((e for e in ENCODINGS if e.matches(weight, scale, note)), None)


def is_known_dtype(raw: RawTensor) -> bool:
    """Whether tensors of this dtype can be weights, with a scale or without."""
    return any(e.weight == raw.stored_dtype and not e.needs_note for e in ENCODINGS)


def formats_called(note: object) -> list[Encoding]:
    """Returns the encodings that ComfyUI calls by a name."""
    return [encoding for encoding in ENCODINGS if note in encoding.names]


def rotation_of(note: Mapping[str, Any]) -> int:
    """Returns the inputs in a rotated group that a note tells of; 0 for none, -1 for nonsense."""
    params = note.get("params")
    fields = {**(params if isinstance(params, dict) else {}), **note}
    called = formats_called(note.get("format"))
    always = bool(called) and all(encoding.format.rotation for encoding in called)
    if not (always or fields.get("convrot")):
        return 0
    size = fields.get("convrot_groupsize", ROTATION)
    return size if type(size) is int and size > 0 else -1


def encoding_of(weight_format: WeightFormat) -> Encoding:
    """Returns how a format is stored in files that we write."""
    return next(encoding for encoding in ENCODINGS if encoding.format is weight_format)


def write_note(encoding: Encoding) -> Tensor:
    """Returns ComfyUI's note for a layer that is stored so."""
    fields: dict[str, object] = {"format": encoding.note}
    if encoding.format.rotation:
        fields |= {"convrot": True, "convrot_groupsize": encoding.format.rotation}
    return torch.frombuffer(bytearray(json.dumps(fields).encode()), dtype=torch.uint8)
