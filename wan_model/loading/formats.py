"""Number formats of checkpoints: which one a file has, and the scales of quantized weights.

Every spelling means the same: weight = stored numbers * scale. The scale of layer X is called
X.weight_scale (X.scale_weight is renamed by `keymap`): one number, one per row, or one per block
of a row. In nvfp4 and mxfp8 scales of blocks are small numbers themselves, see `quant.blocks`.
Sources: ComfyUI (`convert_old_quants`, `quant_ops`), musubi-tuner, LightX2V.
"""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import CheckpointError
from .checkpoint import Checkpoint, first_names
from .header import TensorEntry, shown
from .notes import COMFY_FORMATS, is_note, read_notes

SCALE = ".weight_scale"
TENSOR_SCALE = ".weight_scale_2"

TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I8": torch.int8,
}
"""What weights may be stored as."""

BYTES = ("U8", "F8_E8M0")
"""How bytes of two 4-bit numbers, and exponents, are spelled."""

NAMES = {
    "F64": "fp64",
    "F32": "fp32",
    "F16": "fp16",
    "BF16": "bf16",
    "F8_E4M3": "fp8",
    "F8_E5M2": "fp8 e5m2",
    "I8": "int8",
}
QUANTIZED = ("F8_E4M3", "F8_E5M2", "I8", "U8")

UNSUPPORTED_LEAVES = {
    "weight_global_scale": "nvfp4 of LightX2V",
    "pre_quant_scale": "int4 (AWQ)",
    "qweight": "int4",
    "wscales": "int4 (SVDQuant)",
    "_data": "quanto int8",
    "absmax": "bitsandbytes",
    "quant_map": "bitsandbytes",
}
"""Last parts of key names that only such files have."""

SCALE_DTYPES = {"nvfp4": ("F8_E4M3", "U8"), "mxfp8": BYTES}
"""Of scales per block."""


def is_block_matrix(name: str) -> bool:
    """Whether a tensor of a transformer is a linear layer's weight that may have few bits.

    Everything else is small and sensitive: embeddings, time projection, modulation, norms, head.
    """
    return name.startswith("blocks.") and name.endswith(".weight") and ".norm" not in name


def check_format(checkpoint: Checkpoint) -> None:
    """Refuses number formats that `load_dit` and `load_vae` cannot read.

    Raises:
        CheckpointError: names the format, or the weights whose scale is missing.
    """
    tensors = checkpoint.tensors
    for name, entry in tensors.items():
        leaf = name.rpartition(".")[2]
        if leaf in UNSUPPORTED_LEAVES:
            raise _unsupported(checkpoint, UNSUPPORTED_LEAVES[leaf], name)
        if not is_note(name) and not _is_readable(tensors, name):
            raise _unsupported(checkpoint, f"{entry.dtype} numbers", name)
    notes = read_notes(checkpoint)
    for layer, (name, note) in notes.items():
        _check_note(checkpoint, layer, note, name)
    _check_noted(checkpoint, notes)
    _check_scales_present(checkpoint)


def describe_format(tensors: Mapping[str, TensorEntry]) -> str:
    """Returns the number format of the weight matrices, such as "bf16" or "fp8 scaled"."""
    formats = Counter[str]()
    for name, entry in _matrices(tensors).items():
        scaled = " scaled" if name.removesuffix(".weight") + SCALE in tensors else ""
        blocks = block_format(tensors, name)
        formats[blocks or NAMES[entry.dtype] + scaled] += math.prod(shape_of(tensors, name))
    names = [name for name, _ in formats.most_common()]
    return names[0] if len(names) == 1 else f"mixed ({', '.join(names)})"


def default_dtype(tensors: Mapping[str, TensorEntry]) -> torch.dtype:
    """Returns the dtype to compute in: that of most weights, bf16 if those are quantized."""
    sizes = Counter[str]()
    for name, entry in _matrices(tensors).items():
        sizes[entry.dtype] += math.prod(shape_of(tensors, name))
    most = sizes.most_common(1)[0][0]
    if most == "F64":
        return torch.float32
    return torch.bfloat16 if most in QUANTIZED else TORCH_DTYPES[most]


def block_format(tensors: Mapping[str, TensorEntry], name: str) -> str | None:
    """Returns "nvfp4" or "mxfp8" if a weight has small scales per block, None if it has not."""
    entry, layer = tensors[name], name.removesuffix(".weight")
    scale = tensors.get(layer + SCALE)
    if scale is None or layer == name or len(entry.shape) != 2:
        return None
    found = {"U8": "nvfp4", "F8_E4M3": "mxfp8"}.get(entry.dtype)
    return found if found and scale.dtype in SCALE_DTYPES[found] else None


def shape_of(tensors: Mapping[str, TensorEntry], name: str) -> tuple[int, ...]:
    """Returns the shape of a tensor in numbers, of which a byte may hold two."""
    shape = tensors[name].shape
    return (shape[0], 2 * shape[1]) if block_format(tensors, name) == "nvfp4" else shape


def dtype_of(tensors: Mapping[str, TensorEntry], name: str) -> torch.dtype | None:
    """Returns what a tensor is in memory before anything is converted; None for what has no use."""
    if is_note(name):
        return None
    if name.endswith(SCALE) and (weight := name.removesuffix(SCALE) + ".weight") in tensors:
        blocks = block_format(tensors, weight)
        if blocks is not None:
            return torch.float8_e4m3fn if blocks == "nvfp4" else torch.uint8
    stored = tensors[name].dtype
    return torch.uint8 if stored == "U8" else TORCH_DTYPES.get(stored)


def _matrices(tensors: Mapping[str, TensorEntry]) -> dict[str, TensorEntry]:
    """Returns the weights that make up a model's size: of its blocks, or else all with 2+ axes.

    The small tables of position biases in text encoders are usually left unquantized.
    """
    large = {
        name: entry
        for name, entry in tensors.items()
        if name.endswith(".weight") and len(entry.shape) > 1
        if "attention_bias" not in name and "pos_embedding" not in name
    }
    return {name: entry for name, entry in large.items() if "block" in name} or large


def _is_readable(tensors: Mapping[str, TensorEntry], name: str) -> bool:
    """Whether a tensor is stored as numbers that can be used where it stands."""
    entry = tensors[name]
    layer, _, leaf = name.rpartition(".")
    if leaf == "weight_scale" and entry.dtype in (*BYTES, "F8_E4M3"):
        weight = f"{layer}.weight"
        return weight in tensors and block_format(tensors, weight) is not None
    if leaf == "weight" and entry.dtype == "U8":
        return block_format(tensors, name) == "nvfp4"
    return entry.dtype in TORCH_DTYPES and (entry.dtype != "I8" or leaf == "weight")


def _check_note(checkpoint: Checkpoint, layer: str, note: dict[str, Any], name: str) -> None:
    """Refuses a note of a format that cannot be read, or that the layer's tensors do not have."""
    layout = note.get("format")
    if layout not in COMFY_FORMATS:
        raise _unsupported(checkpoint, shown(layout), name)
    if note.get("convrot"):
        raise _unsupported(checkpoint, "int8 convrot", name)
    weight = f"{layer}.weight"
    found = block_format(checkpoint.tensors, weight) if weight in checkpoint.tensors else None
    if (layout if layout in SCALE_DTYPES else None) != found:
        raise CheckpointError(
            f"{checkpoint.path.name} contradicts itself. Got the note {layout} in {shown(name)}, "
            f"need one that fits the layer's tensors{f', {found}' if found else ''}. Choose "
            "another version of the model."
        )


def _check_noted(checkpoint: Checkpoint, notes: Mapping[str, object]) -> None:
    """Refuses small scales that no note of ComfyUI describes: their order may be another one."""
    for name in checkpoint.tensors:
        found, layer = block_format(checkpoint.tensors, name), name.removesuffix(".weight")
        if found and checkpoint.component != "dit":
            raise _unsupported(checkpoint, f"{found} of a {checkpoint.component}", name)
        if found and layer not in notes:
            raise _unsupported(checkpoint, f"{found} without ComfyUI's notes", name)


def _check_scales_present(checkpoint: Checkpoint) -> None:
    """Refuses integers without scale, and fp8 weights without one in a file that has scales."""
    tensors = checkpoint.tensors
    scaled_file = "scaled_fp8" in tensors or any(name.endswith(SCALE) for name in tensors)
    unscaled = [
        name
        for name, entry in tensors.items()
        if name.endswith(".weight") and name.removesuffix(".weight") + SCALE not in tensors
        if entry.dtype == "I8" or (scaled_file and entry.dtype in QUANTIZED and entry.shape[1:])
    ]
    unscaled += [
        name
        for name in tensors
        if block_format(tensors, name) == "nvfp4"
        and name.removesuffix(".weight") + TENSOR_SCALE not in tensors
    ]
    if unscaled:
        raise CheckpointError(
            f"{checkpoint.path.name} lacks scales. Got {len(unscaled)} quantized weights without "
            f"one ({first_names(unscaled)}), need a weight_scale for each, in "
            "nvfp4 a weight_scale_2 as well. Download the file again."
        )


def _unsupported(checkpoint: Checkpoint, layout: str, name: str) -> CheckpointError:
    return CheckpointError(
        f"The number format of {checkpoint.path.name} is not supported yet. Got {layout} in "
        f"{shown(name)}, need fp32, bf16, fp16, fp8 (plain or scaled), int8 with scales, or "
        "ComfyUI's nvfp4 or mxfp8. Choose another version of the model."
    )
