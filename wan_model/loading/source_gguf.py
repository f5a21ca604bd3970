"""Files of GGUF: which tensors one holds, without their data, and what it says of itself.

Layout: magic, version, number of tensors and of values by key; the values; the tensors' names,
sizes, types and places; their bytes, each at a multiple of the alignment (`docs/gguf.md` of ggml).
Files come from strangers, so every field is checked before it is used, and none is believed to be
as long as it says.
"""

import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from ..errors import CheckpointError
from .source import RawTensor, Source, damaged, shown
from .source_safetensors import MAX_HEADER_BYTES, MAX_SIDES, SIDE_LIMIT

MAGIC = b"GGUF"
VERSIONS = (2, 3)

MAX_ENTRIES = 1 << 14
"""Tensors, or values by key. A Wan2.2 model has 1095 tensors."""

MAX_NAME_BYTES = 1 << 10
MAX_TEXT_BYTES = 1 << 16
"""Of a value that is kept: longer ones, such as chat templates, say nothing about a model."""

LENGTH = struct.Struct("<Q")
"""Of a text."""

ALIGNMENT = 32
"""Unless the file says otherwise."""
LEAST_ALIGNMENT, MAX_ALIGNMENT = 8, 1 << 16


class BlockType(NamedTuple):
    """How ggml stores tensors: in blocks of a row."""

    name: str
    items: int
    """Of one block."""
    nbytes: int
    """Of one block."""


TYPES = {
    0: BlockType("F32", 1, 4),
    1: BlockType("F16", 1, 2),
    2: BlockType("Q4_0", 32, 18),
    3: BlockType("Q4_1", 32, 20),
    6: BlockType("Q5_0", 32, 22),
    7: BlockType("Q5_1", 32, 24),
    8: BlockType("Q8_0", 32, 34),
    9: BlockType("Q8_1", 32, 40),
    10: BlockType("Q2_K", 256, 84),
    11: BlockType("Q3_K", 256, 110),
    12: BlockType("Q4_K", 256, 144),
    13: BlockType("Q5_K", 256, 176),
    14: BlockType("Q6_K", 256, 210),
    15: BlockType("Q8_K", 256, 292),
    16: BlockType("IQ2_XXS", 256, 66),
    17: BlockType("IQ2_XS", 256, 74),
    18: BlockType("IQ3_XXS", 256, 98),
    19: BlockType("IQ1_S", 256, 50),
    20: BlockType("IQ4_NL", 32, 18),
    21: BlockType("IQ3_S", 256, 110),
    22: BlockType("IQ2_S", 256, 82),
    23: BlockType("IQ4_XS", 256, 136),
    24: BlockType("I8", 1, 1),
    25: BlockType("I16", 1, 2),
    26: BlockType("I32", 1, 4),
    27: BlockType("I64", 1, 8),
    28: BlockType("F64", 1, 8),
    29: BlockType("IQ1_M", 256, 56),
    30: BlockType("BF16", 1, 2),
    34: BlockType("TQ1_0", 256, 54),
    35: BlockType("TQ2_0", 256, 66),
    39: BlockType("MXFP4", 32, 17),
    40: BlockType("NVFP4", 64, 36),
    41: BlockType("Q1_0", 128, 18),
}
"""By ggml's number: every type there is, so that one that cannot be read is named."""

SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""By GGUF's number of a value's type: what `struct` calls it."""

TEXT, ARRAY = 8, 9

ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
"""Key, before a tensor's name, of the shape that ComfyUI-GGUF's tools note where they change it."""


@dataclass(frozen=True)
class GgufArray:
    """A list among a file's values, not read yet."""

    file: Path
    item: int
    """Type of its items."""
    count: int
    start: int
    """Position of the first item in the file."""
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class GgufSource(Source):
    """The same of GGUF, whose metadata are single values, as text; very long ones are left out."""

    arrays: dict[str, GgufArray]
    """The lists among the values."""


def open_gguf(file: Path) -> GgufSource:
    """Reads and checks the header of a file.

    Raises:
        CheckpointError: for a file that is cut off, or whose header is not a valid one.
    """
    size = file.stat().st_size
    with _mapped(file) as data:
        fields = _Fields(file, data, min(size, MAX_HEADER_BYTES))
        counts = _start(fields)
        values, arrays = _values(fields, counts[1])
        infos = [_info(fields) for _ in range(counts[0])]
        alignment = _alignment(file, values)
        data_start = fields.position + -fields.position % alignment
    if len({info.name for info in infos}) < len(infos):
        names = sorted(info.name for info in infos)
        twice = next(one for one, other in pairwise(names) if one == other)
        raise damaged(file, "A tensor is there twice", twice, "every name once")
    tensors = [
        _tensor(file, info, _shape(file, info, arrays), data_start, alignment) for info in infos
    ]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.nbytes))
    end = data_start
    for tensor in tensors:
        if tensor.start < end:
            what = f"Tensor {shown(tensor.name)} overlaps the one before it"
            raise damaged(file, what, tensor.start, f"at least {end}")
        end = tensor.start + tensor.nbytes
    if tensors and end > size:
        raise damaged(file, "Its data is cut off", f"{size} bytes", f"{end} bytes")
    parts = values.get("split.count", "1")
    if parts not in ("0", "1"):
        raise CheckpointError(
            f"{file.name} is one part of a split file. Got one of {shown(parts)} parts, need all "
            "of them in one file. Join them with gguf-split of llama.cpp."
        )
    return GgufSource(tensors=tuple(tensors), metadata=values, arrays=arrays)


def read_array(array: GgufArray) -> list[str] | list[int] | list[float] | bytes:
    """Returns the items of a list; of one of bytes (uint8 or int8) those bytes.

    Raises:
        CheckpointError: if the file has become another one.
    """
    end = array.start + array.nbytes
    with _mapped(array.file) as data:
        fields = _Fields(array.file, data, min(end, len(data)), array.start)
        if array.item == TEXT:
            return [fields.text() for _ in range(array.count)]
        items = fields.take(array.nbytes)
    code = SCALARS[array.item]
    return items if code in "Bb" else list(struct.unpack(f"<{array.count}{code}", items))


@contextmanager
def _mapped(file: Path) -> Iterator[mmap.mmap]:
    with file.open("rb") as stream:
        if not stream.read(1):
            raise damaged(file, "It is empty", "0 bytes", "a GGUF file")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


class _Fields:
    """Reads a header's fields in turn; none reaches behind the end of the file.

    Attributes:
        position: of the next field, in the file.
    """

    def __init__(self, file: Path, data: mmap.mmap, end: int, position: int = 0) -> None:
        self.file = file
        self.position = position
        self._data = data
        self._end = end

    def take(self, count: int) -> bytes:
        """Returns so many bytes."""
        start = self.position
        self.skip(count)
        return self._data[start : start + count]

    def skip(self, count: int) -> None:
        """Passes over so many bytes."""
        if count > self._end - self.position:
            got = f"{self._end} bytes"
            raise damaged(self.file, "Its header is cut off", got, f"{count} more")
        self.position += count

    def number(self, nbytes: int) -> int:
        """Returns an unsigned number."""
        return int.from_bytes(self.take(nbytes), "little")

    def text(self, limit: int = MAX_HEADER_BYTES) -> str:
        """Returns a text of at most so many bytes."""
        length = self.number(8)
        if length > limit:
            what = "Its header holds an absurd name"
            raise damaged(self.file, what, f"{length} bytes", f"at most {limit}")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise damaged(self.file, "Its header holds no text", error, "UTF-8") from error

    def skip_texts(self, count: int) -> None:
        """Passes over so many texts; a tokenizer has a quarter of a million."""
        position, last = self.position, self._end - 8
        data, length_at = self._data, LENGTH.unpack_from
        while count and position <= last:
            position += 8 + length_at(data, position)[0]
            count -= 1
        self.skip(position - self.position + 8 * bool(count))


def _start(fields: _Fields) -> tuple[int, int]:
    """Returns the numbers of tensors and of values."""
    magic = fields.take(4)
    if magic != MAGIC:
        raise damaged(fields.file, "It is not a GGUF file", magic, MAGIC)
    version = fields.number(4)
    if version not in VERSIONS:
        swapped = version and version % (1 << 16) == 0
        got = "one of a big-endian machine" if swapped else f"version {version}"
        what = "Its version of GGUF cannot be read"
        raise damaged(fields.file, what, got, " or ".join(map(str, VERSIONS)))
    counts = fields.number(8), fields.number(8)
    if max(counts) > MAX_ENTRIES:
        what = "Its header announces an absurd number of entries"
        raise damaged(fields.file, what, max(counts), f"at most {MAX_ENTRIES}")
    return counts


def _values(fields: _Fields, count: int) -> tuple[dict[str, str], dict[str, GgufArray]]:
    values: dict[str, str] = {}
    arrays: dict[str, GgufArray] = {}
    keys = set[str]()
    for _ in range(count):
        key = fields.text(MAX_NAME_BYTES)
        if key in keys:
            raise damaged(fields.file, "A value is there twice", key, "every key once")
        keys.add(key)
        kind = fields.number(4)
        if kind == ARRAY:
            arrays[key] = _array(fields, key)
        elif kind == TEXT:
            length = fields.number(8)
            if length > MAX_TEXT_BYTES:
                fields.skip(length)
            else:
                values[key] = fields.take(length).decode("utf-8", "replace")
        else:
            code = "<" + _scalar(fields, key, kind)
            (value,) = struct.unpack(code, fields.take(struct.calcsize(code)))
            values[key] = str(value)
    return values, arrays


def _array(fields: _Fields, key: str) -> GgufArray:
    item, count = fields.number(4), fields.number(8)
    start = fields.position
    if item == TEXT:
        fields.skip_texts(count)
    else:
        fields.skip(count * struct.calcsize("<" + _scalar(fields, key, item)))
    return GgufArray(fields.file, item, count, start, fields.position - start)


def _scalar(fields: _Fields, key: str, kind: int) -> str:
    """Returns what `struct` calls a type of numbers."""
    if kind not in SCALARS:
        what = f"The value {shown(key)} has an unknown type"
        raise damaged(fields.file, what, kind, "one of GGUF's")
    return SCALARS[kind]


def _alignment(file: Path, values: dict[str, str]) -> int:
    text = values.get("general.alignment", str(ALIGNMENT))
    alignment = int(text) if text.isdecimal() and len(text) < 8 else 0
    if not LEAST_ALIGNMENT <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise damaged(
            file, "Its alignment cannot be", text, f"a power of two from {LEAST_ALIGNMENT} on"
        )
    return alignment


class _Info(NamedTuple):
    """What a header says of a tensor."""

    name: str
    sides: tuple[int, ...]
    """The fastest first."""
    kind: int
    offset: int


def _info(fields: _Fields) -> _Info:
    name = fields.text(MAX_NAME_BYTES)
    count = fields.number(4)
    if count > MAX_SIDES:
        what = f"Tensor {shown(name)} has too many sides"
        raise damaged(fields.file, what, count, f"at most {MAX_SIDES}")
    sides = struct.unpack(f"<{count}Q", fields.take(8 * count))
    kind, offset = struct.unpack("<IQ", fields.take(12))
    return _Info(name, sides, kind, offset)


def _shape(file: Path, info: _Info, arrays: Mapping[str, GgufArray]) -> tuple[int, ...]:
    """Returns the shape that is noted for a tensor, or else the one that its sides give."""
    shape = info.sides[::-1]
    if not all(side < SIDE_LIMIT for side in shape):
        what = f"Tensor {shown(info.name)} has a wrong header entry"
        raise damaged(file, what, list(shape), f"sides from 0 to {SIDE_LIMIT}")
    noted = arrays.get(ORIGINAL_SHAPE + info.name)
    if noted is None:
        return shape
    what = f"The shape that is noted for {shown(info.name)} cannot be"
    if noted.count > MAX_SIDES or SCALARS.get(noted.item, "?") not in "iIqQ":
        raise damaged(file, what, f"{noted.count} items", f"up to {MAX_SIDES} integers")
    original = tuple(int(side) for side in read_array(noted))
    if min(original, default=0) <= 0 or math.prod(original) != math.prod(shape):
        raise damaged(file, what, list(original), f"as many items as in {list(shape)}")
    return original


def _tensor(
    file: Path, info: _Info, shape: tuple[int, ...], data_start: int, alignment: int
) -> RawTensor:
    """Returns a tensor in items of its dtype, or in bytes of its blocks."""
    where = f"Tensor {shown(info.name)} has a wrong header entry"
    if info.kind not in TYPES:
        raise damaged(file, where, f"type {info.kind}", "a known one")
    name, items, nbytes = TYPES[info.kind]
    if info.offset % alignment:
        raise damaged(file, where, f"offset {info.offset}", f"a multiple of {alignment}")
    if items > 1:
        if not shape or shape[-1] % items:
            what = f"rows that are multiples of {items} in {name}"
            raise damaged(file, where, list(shape), what)
        shape = (*shape[:-1], shape[-1] // items * nbytes)
    item = 1 if items > 1 else nbytes
    return RawTensor(
        name=info.name,
        file=file,
        start=data_start + info.offset,
        nbytes=math.prod(shape) * item,
        stored_dtype=name,
        shape=shape,
    )
