"""Files of safetensors: which tensors one holds, without their data.

Layout: 8 bytes little-endian header length, that many bytes of JSON, then the tensors' bytes
without gaps (`FORMAT` section of the safetensors README). Files come from strangers, so every
field is checked before it is used.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from .source import RawTensor, Source, damaged, shown

MAX_HEADER_BYTES = 100_000_000
"""Limit of the safetensors library itself."""

MAX_SIDES, SIDE_LIMIT = 8, 1 << 48
"""Of a shape. More or longer sides are no tensor, and their product could take hours."""

BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0"), 8),
    **dict.fromkeys(("I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits per item of every dtype that a header can name."""

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
}
"""How a header spells what tensors of a model are in memory."""


def open_safetensors(file: Path) -> Source:
    """Reads and checks the header of a file.

    Raises:
        CheckpointError: for a file that is cut off, or whose header is not a valid one.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise damaged(file, "Its header is cut off or not one of safetensors", length, size)
        source = _parse(file, stream.read(length))
    end = 8 + length
    for tensor in source.tensors:
        if tensor.start != end:
            raise damaged(file, f"Tensor {shown(tensor.name)} is misplaced", tensor.start, end)
        end += tensor.nbytes
    if end != size:
        what = "Its data is cut off" if size < end else "It has bytes that belong to no tensor"
        raise damaged(file, what, f"{size} bytes", f"{end} bytes")
    return source


def _parse(file: Path, text: bytes) -> Source:
    """Returns what a header says, with each tensor's entry checked on its own."""
    try:
        fields = parse_json(text)
    except ValueError as error:
        raise damaged(file, "Its header cannot be read", error, "JSON") from error
    if not isinstance(fields, dict):
        raise damaged(file, "Its header is not a table of tensors", fields, "a JSON object")
    metadata = fields.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise damaged(file, "Its metadata is not text", metadata, "text")
    tensors: list[RawTensor] = []
    for name, entry in fields.items():
        match entry:
            case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(end)]}:
                pass
            case _:
                raise _wrong(file, name, entry, "dtype, shape and data_offsets")
        if dtype not in BITS:
            raise _wrong(file, name, dtype, "a known dtype")
        if len(shape) > MAX_SIDES:
            raise _wrong(file, name, f"{len(shape)} sides", f"at most {MAX_SIDES}")
        if not all(type(side) is int and 0 <= side < SIDE_LIMIT for side in shape):
            raise _wrong(file, name, entry, f"sides from 0 to {SIDE_LIMIT}")
        if not 0 <= begin <= end:
            raise _wrong(file, name, entry, "offsets that are not negative and in order")
        if math.prod(shape) * BITS[dtype] != (end - begin) * 8:
            got = f"{end - begin} bytes"
            raise _wrong(file, name, got, f"those of {dtype} of shape {shape}")
        tensors.append(
            RawTensor(
                name=name,
                file=file,
                start=8 + len(text) + begin,
                nbytes=end - begin,
                stored_dtype=dtype,
                shape=tuple(shape),
            )
        )
    tensors.sort(key=lambda tensor: (tensor.start, tensor.nbytes))
    return Source(tensors=tuple(tensors), metadata=metadata)


def parse_json(text: bytes | str) -> Any:
    """Parses JSON that a stranger wrote.

    Raises:
        ValueError: for anything but JSON, for a key given twice, and for absurd nesting.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"the key {shown(name)} is there twice")
        result[name] = value
    return result


def _wrong(file: Path, name: str, got: object, need: object) -> CheckpointError:
    return damaged(file, f"Tensor {shown(name)} has a wrong header entry", got, need)
