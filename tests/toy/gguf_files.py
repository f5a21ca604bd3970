"""Writes toy checkpoints as GGUF, with the writer of ggml's own Python package."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize
from sentencepiece import SentencePieceProcessor
from torch import Tensor

Layout = Literal["city96", "sd.cpp", "calcuis"]
State = dict[str, Tensor]


def write_dit(
    file: Path,
    state: Mapping[str, Tensor],
    kinds: Mapping[str, str] | str,
    layout: Layout = "city96",
    *,
    packed: Mapping[str, np.ndarray] | None = None,
) -> State:
    """Writes a transformer, and returns what its tensors are in fp32.

    Args:
        file: to write.
        state: with official names.
        kinds: type of all large matrices, or of some by name; others are F16.
        layout: whose tool wrote it.
        packed: bytes of matrices instead of what `state` has, for types without a quantizer.
    """
    prefix = "model.diffusion_model." if layout == "sd.cpp" else ""
    architecture = {"calcuis": "pig"}.get(layout, "wan")
    writer = gguf.GGUFWriter(file, architecture)
    if layout == "sd.cpp":
        writer.kv_data = [{}]
    else:
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    dense: State = {}
    for name, tensor in state.items():
        values = tensor.float().numpy()
        if layout == "sd.cpp" and values.ndim == 5:
            values = values.reshape(-1, *values.shape[2:])
        if layout == "sd.cpp" and name.endswith("modulation"):
            values = values[0]
        kind = _kind(name, values, kinds, layout)
        data = (packed or {}).get(name)
        data = quantize(values, kind) if data is None else data
        writer.add_tensor(prefix + name, np.ascontiguousarray(data), raw_dtype=kind)
        dense[name] = torch.from_numpy(dequantize(data, kind).copy()).reshape(tensor.shape)
    finish(writer)
    return dense


def finish(writer: gguf.GGUFWriter) -> None:
    """Writes what a writer has been given."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _kind(name: str, values: np.ndarray, kinds: Mapping[str, str] | str, layout: Layout) -> Kind:
    """Returns the type that a layout's tool gives a tensor."""
    if name == "patch_embedding.weight":
        return Kind.F16 if layout != "city96" else Kind.F32
    if values.ndim == 1:
        return Kind.F32
    modulation = name.endswith("modulation")
    if layout == "city96" and modulation:
        return Kind.F32
    matrix = name.startswith("blocks.") and not modulation
    if isinstance(kinds, str):
        whole = values.shape[-1] % gguf.GGML_QUANT_SIZES[Kind[kinds]][0] == 0
        everything = layout == "sd.cpp"
        return Kind[kinds] if whole and (matrix or everything) else Kind.F16
    return Kind[kinds[name]] if name in kinds else Kind.F16


def write_umt5(file: Path, state: Mapping[str, Tensor], kind: str) -> State:
    """Writes a umT5 encoder as llama.cpp's converter does, its tokenizer in lists.

    Args:
        file: to write.
        state: with the names of transformers, and `spiece_model`.
        kind: type of the matrices.

    Returns:
        what the tensors are in fp32.
    """
    writer = gguf.GGUFWriter(file, "t5encoder")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, 99)
    dense: State = {}
    for name, tensor in state.items():
        if name == "spiece_model":
            _add_tokenizer(writer, tensor.numpy().tobytes())
            continue
        ours = names.get_name(name, try_suffixes=(".weight",))
        assert ours is not None, name
        values = tensor.float().numpy()
        packed = values.ndim > 1 and "relative_attention_bias" not in name
        data = quantize(values, Kind[kind] if packed else Kind.F32)
        writer.add_tensor(ours, data, raw_dtype=Kind[kind] if packed else Kind.F32)
        dense[name] = torch.from_numpy(dequantize(data, Kind[kind] if packed else Kind.F32).copy())
    finish(writer)
    return dense


def _add_tokenizer(writer: gguf.GGUFWriter, model: bytes) -> None:
    """Takes a sentencepiece model apart, as llama.cpp's converter does."""
    found = SentencePieceProcessor(model_proto=model)
    ids = range(found.GetPieceSize())
    kinds = {2: found.IsUnknown, 3: found.IsControl, 5: found.IsUnused, 6: found.IsByte}
    writer.add_tokenizer_model("t5")
    writer.add_token_list([found.IdToPiece(i).encode() for i in ids])
    writer.add_token_scores([found.GetScore(i) for i in ids])
    writer.add_token_types([next((k for k, is_ in kinds.items() if is_(i)), 1) for i in ids])
    normalizer = _fields(_fields(model)[3])
    writer.add_add_space_prefix(bool(normalizer.get(3, 1)))
    writer.add_remove_extra_whitespaces(bool(normalizer.get(4, 1)))
    writer.add_precompiled_charsmap(normalizer[2])
    writer.add_unk_token_id(found.unk_id())
    writer.add_eos_token_id(found.eos_id())
    writer.add_pad_token_id(found.pad_id())


def _fields(message: bytes) -> dict[int, Any]:
    """Returns the last value of every field of a protobuf message."""
    stream, found = io.BytesIO(message), {}
    while stream.tell() < len(message):
        key = _varint(stream)
        if key & 7 == 0:
            found[key >> 3] = _varint(stream)
        else:
            found[key >> 3] = stream.read(4 if key & 7 == 5 else _varint(stream))
    return found


def _varint(stream: io.BytesIO) -> int:
    value = shift = 0
    while True:
        (byte,) = stream.read(1)
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value
