"""Writes toy checkpoints as GGUF, with the writer of ggml's own Python package."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize
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
