"""Number formats of checkpoints: which one a file has, and the scales of quantised weights.

Every spelling means the same: weight = stored numbers * scale. The scale of layer X is called
X.weight_scale (X.scale_weight is renamed by `keymap`): one number, one per row, or one per block
of a row. Sources: ComfyUI (`convert_old_quants`, `quant_ops`), musubi-tuner, LightX2V.
"""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .checkpoint import Checkpoint, first_names
from .header import TensorEntry, parse_json, read_bytes, shown

SCALE = ".weight_scale"
NOTES = ("comfy_quant", "input_scale", "scaled_fp8", "spiece_model")
"""Tensors that are not weights: quantisation notes, activation scales, an embedded tokenizer."""

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

NAMES = {
    "F64": "fp64",
    "F32": "fp32",
    "F16": "fp16",
    "BF16": "bf16",
    "F8_E4M3": "fp8",
    "F8_E5M2": "fp8 e5m2",
    "I8": "int8",
}
QUANTISED = ("F8_E4M3", "F8_E5M2", "I8")

COMFY_FORMATS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise")
"""Values of "format" in comfy_quant notes that mean: numbers times weight_scale."""

UNSUPPORTED_LEAVES = {
    "weight_scale_2": "nvfp4",
    "weight_global_scale": "nvfp4",
    "pre_quant_scale": "int4 (AWQ)",
    "qweight": "int4",
    "wscales": "int4 (SVDQuant)",
    "_data": "quanto int8",
    "absmax": "bitsandbytes",
    "quant_map": "bitsandbytes",
}
"""Last parts of key names that only such files have."""

SCALES_OF = {"F8_E8M0": "mxfp8", "U8": "mxfp8", "F8_E4M3": "nvfp4"}
"""Formats whose scales are themselves small numbers."""


def is_note(name: str) -> bool:
    """Whether an official name is a quantisation note or other extra, not part of a model."""
    return name.rpartition(".")[2] in NOTES


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
        if leaf == "weight_scale" and entry.dtype in SCALES_OF:
            raise _unsupported(checkpoint, SCALES_OF[entry.dtype], name)
        if leaf == "comfy_quant":
            _check_note(checkpoint, _parse_note(checkpoint, read_bytes(entry)), name)
        elif not is_note(name) and (
            entry.dtype not in TORCH_DTYPES or (entry.dtype == "I8" and leaf != "weight")
        ):
            raise _unsupported(checkpoint, f"{entry.dtype} numbers", name)
    _check_metadata(checkpoint)
    _check_scales_present(checkpoint)


def describe_format(tensors: Mapping[str, TensorEntry]) -> str:
    """Returns the number format of the weight matrices, such as "bf16" or "fp8 scaled"."""
    formats = Counter[str]()
    for name, entry in _matrices(tensors).items():
        scaled = " scaled" if name.removesuffix(".weight") + SCALE in tensors else ""
        formats[NAMES[entry.dtype] + scaled] += entry.numel
    names = [name for name, _ in formats.most_common()]
    return names[0] if len(names) == 1 else f"mixed ({', '.join(names)})"


def default_dtype(tensors: Mapping[str, TensorEntry]) -> torch.dtype:
    """Returns the dtype to compute in: that of most weights, bf16 if those are quantised."""
    sizes = Counter[str]()
    for entry in _matrices(tensors).values():
        sizes[entry.dtype] += entry.numel
    most = sizes.most_common(1)[0][0]
    if most == "F64":
        return torch.float32
    return torch.bfloat16 if most in QUANTISED else TORCH_DTYPES[most]


def normal_scale(scale: Tensor, weight_shape: tuple[int, ...], name: str, file: str) -> Tensor:
    """Returns a scale as fp32 in a shape that `quant.scale_weight` takes.

    Args:
        scale: as stored: one number, (O,), (O, 1), or (O, N, 1).
        weight_shape: of the weight (O, I, ...).
        name: key of the scale, for messages.
        file: file name, for messages.

    Returns:
        shape (), (O, 1) or (O, N, 1).

    Raises:
        CheckpointError: for a shape that does not fit the weight, or numbers that are not finite.
    """
    rows, columns = weight_shape[0], math.prod(weight_shape[1:])
    values = scale.float()
    broken = values[~values.isfinite()]
    if broken.numel():
        raise CheckpointError(
            f"{file} holds broken scales. Got {broken[0].item()} in {shown(name)}, need finite "
            "numbers. Download the file again, or choose another version of the model."
        )
    match values.shape:
        case _ if values.numel() == 1:
            return values.reshape(())
        case (r,) | (r, 1) if r == rows:
            return values.reshape(rows, 1)
        case (r, blocks, 1) if r == rows and blocks and columns % blocks == 0:
            return values
    raise CheckpointError(
        f"{file} holds a scale of a wrong shape. Got {list(scale.shape)} in {shown(name)}, need "
        f"[1], [{rows}, 1] or [{rows}, blocks, 1] for a weight of shape {list(weight_shape)}. "
        "Choose another version of the model."
    )


def _matrices(tensors: Mapping[str, TensorEntry]) -> dict[str, TensorEntry]:
    """Returns the weights that make up a model's size: of its blocks, or else all with 2+ axes.

    The small tables of position biases in text encoders are usually left unquantised.
    """
    large = {
        name: entry
        for name, entry in tensors.items()
        if name.endswith(".weight") and len(entry.shape) > 1
        if "attention_bias" not in name and "pos_embedding" not in name
    }
    return {name: entry for name, entry in large.items() if "block" in name} or large


def _parse_note(checkpoint: Checkpoint, text: bytes | str) -> dict[str, Any]:
    try:
        note = parse_json(text)
    except ValueError:
        note = None
    if not isinstance(note, dict):
        raise CheckpointError(
            f"{checkpoint.path.name} has a damaged quantisation note. Got {shown(text)}, need a "
            "JSON object. Download the file again."
        )
    return note


def _check_note(checkpoint: Checkpoint, note: dict[str, Any], name: str) -> None:
    """Checks one layer's note, {"format": "float8_e4m3fn", ...}."""
    layout = note.get("format")
    if layout not in COMFY_FORMATS:
        raise _unsupported(checkpoint, shown(layout), name)
    if note.get("convrot"):
        raise _unsupported(checkpoint, "int8 convrot", name)


def _check_metadata(checkpoint: Checkpoint) -> None:
    """Checks the notes of all layers in the file's text metadata."""
    text = checkpoint.metadata.get("_quantization_metadata")
    if text is None:
        return
    layers = _parse_note(checkpoint, text).get("layers", {})
    for name, note in layers.items() if isinstance(layers, dict) else ():
        _check_note(checkpoint, note if isinstance(note, dict) else {"format": note}, name)


def _check_scales_present(checkpoint: Checkpoint) -> None:
    """Refuses integers without scale, and fp8 weights without one in a file that has scales."""
    tensors = checkpoint.tensors
    scaled_file = "scaled_fp8" in tensors or any(name.endswith(SCALE) for name in tensors)
    unscaled = [
        name
        for name, entry in tensors.items()
        if name.endswith(".weight") and name.removesuffix(".weight") + SCALE not in tensors
        if entry.dtype == "I8" or (scaled_file and entry.dtype in QUANTISED and entry.shape[1:])
    ]
    if unscaled:
        raise CheckpointError(
            f"{checkpoint.path.name} lacks scales. Got {len(unscaled)} quantised weights without "
            f"one ({first_names(unscaled)}), need a weight_scale for each. Download the file again."
        )


def _unsupported(checkpoint: Checkpoint, layout: str, name: str) -> CheckpointError:
    return CheckpointError(
        f"The number format of {checkpoint.path.name} is not supported yet. Got {layout} in "
        f"{shown(name)}, need fp32, bf16, fp16, fp8 (plain or scaled) or int8 with scales. "
        "Choose another version of the model."
    )
