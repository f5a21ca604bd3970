"""The header of a safetensors file: names, shapes and number formats, without the data.

Layout: 8 bytes little-endian header length, that many bytes of JSON, then the tensors' bytes
without gaps (`FORMAT` section of the safetensors README). Files come from strangers, so every
field is checked before it is used.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000
"""Limit of the safetensors library itself."""

BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0"), 8),
    **dict.fromkeys(("I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits per number of every format that a header can name."""


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """One tensor of a file, not read yet."""

    name: str
    """The key in the file."""
    file: Path
    dtype: str
    """Number format as the header spells it: "F32", "BF16", "F8_E4M3"."""
    shape: tuple[int, ...]
    start: int
    """Position of the first byte in the file."""
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Header:
    """Every tensor of one file, in the order of their bytes, and the file's text metadata."""

    tensors: tuple[TensorEntry, ...]
    metadata: dict[str, str]


def read_header(file: Path) -> Header:
    """Reads and checks the header of a safetensors file.

    Raises:
        CheckpointError: for a file that is cut off, or whose header is not a valid one.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise damaged(file, "Its header is cut off or is no safetensors header", length, size)
        fields = _parse(file, stream.read(length))
    metadata = fields.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise damaged(file, "Its metadata is not text", metadata, "text")
    entries = [_entry(file, name, value, 8 + length) for name, value in fields.items()]
    entries.sort(key=lambda entry: (entry.start, entry.bytes))
    end = 8 + length
    for entry in entries:
        if entry.start != end:
            raise damaged(file, f"Tensor {shown(entry.name)} is misplaced", entry.start, end)
        end += entry.bytes
    if end != size:
        what = "Its data is cut off" if size < end else "It has bytes that belong to no tensor"
        raise damaged(file, what, f"{size} bytes", f"{end} bytes")
    return Header(tensors=tuple(entries), metadata=metadata)


def read_bytes(entry: TensorEntry) -> bytes:
    """Returns the stored bytes of a small tensor, such as a JSON note; at most 64 KiB."""
    with entry.file.open("rb") as stream:
        stream.seek(entry.start)
        return stream.read(min(entry.bytes, 2**16))


def damaged(file: Path, what: str, got: object, need: object) -> CheckpointError:
    """Returns the error for a file whose bytes are wrong."""
    return CheckpointError(
        f"{file.name} is damaged. {what}. Got {shown(got)}, need {shown(need)}. "
        "Download the file again."
    )


def shown(value: object, limit: int = 100) -> str:
    """Returns text from a file in a form that is safe and short enough for a message."""
    text = str(value)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= limit else text[:limit] + "..."


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
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in result if names.count(name) > 1)
        raise ValueError(f"the key {shown(twice)} is there twice")
    return result


def _parse(file: Path, text: bytes) -> dict[str, Any]:
    try:
        fields = parse_json(text)
    except ValueError as error:
        raise damaged(file, "Its header cannot be read", error, "JSON") from error
    if not isinstance(fields, dict):
        raise damaged(file, "Its header is no table of tensors", fields, "a JSON object")
    return fields


def _entry(file: Path, name: str, fields: Any, data_start: int) -> TensorEntry:
    where = f"Tensor {shown(name)} has a wrong header entry"
    match fields:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            raise damaged(file, where, fields, "dtype, shape and data_offsets")
    if dtype not in BITS:
        raise damaged(file, where, dtype, "a known number format")
    if not all(type(side) is int and side >= 0 for side in shape) or not 0 <= begin <= end:
        raise damaged(file, where, fields, "sizes that are not negative")
    if math.prod(shape) * BITS[dtype] != (end - begin) * 8:
        raise damaged(file, where, f"{end - begin} bytes", f"{dtype} numbers of shape {shape}")
    return TensorEntry(
        name=name,
        file=file,
        dtype=dtype,
        shape=tuple(shape),
        start=data_start + begin,
        bytes=end - begin,
    )
