"""Writes files of GGUF that ComfyUI-GGUF, stable-diffusion.cpp and this project read alike.

`source_gguf` describes the layout. Sides come the fastest first. ggml knows four of them: the patch
embedding's five are joined to four, and its shape is noted as ComfyUI-GGUF does.
"""

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from ..loading.source_gguf import (
    ALIGNMENT,
    ARRAY,
    MAGIC,
    ORIGINAL_SHAPE,
    SCALARS,
    TEXT,
    TYPES,
    VERSIONS,
)
from ..loading.source_safetensors import DTYPES
from ..quant import GGUF_FORMATS, StoredWeight
from .writer import Layout, Place

ARCHITECTURE = "wan"
QUANTIZATION_VERSION = 2
"""Of the block types."""

FILE_TYPES = {"Q4_0": 2, "Q8_0": 7}
"""What llama.cpp calls files of mostly one type."""

MOST_SIDES = 4

_TYPE_NUMBERS = {kind.name: number for number, kind in TYPES.items()}
_SCALAR_NUMBERS = {code: number for number, code in SCALARS.items()}


@dataclass(frozen=True)
class GgufLayout(Layout):
    """That of GGUF."""

    file_type: int

    @classmethod
    def of(cls, weights: Iterable[tuple[str, StoredWeight]], most: str) -> "GgufLayout":
        """Lays weights out, which need no data.

        Args:
            weights: plain ones and blocks of GGUF.
            most: type of most of them, a key of `FILE_TYPES`.
        """
        places: dict[str, Place] = {}
        end = 0
        for name, weight in weights:
            packed = weight.format in GGUF_FORMATS
            kind = weight.format.name if packed else DTYPES[weight.weight.dtype]
            shape = weight.format.shape(tuple(weight.weight.shape))
            places[name] = Place(kind, shape, end, weight.weight.nbytes)
            end += weight.weight.nbytes + -weight.weight.nbytes % ALIGNMENT
        return cls(places, FILE_TYPES[most])

    def header(self, metadata: dict[str, str]) -> bytes:
        """`source_gguf` describes it; the metadata are among its values."""
        values = [_value(key, TEXT, _text(text)) for key, text in metadata.items()]
        values += [
            _number("general.quantization_version", QUANTIZATION_VERSION),
            _number("general.file_type", self.file_type),
        ]
        values += [
            _value(ORIGINAL_SHAPE + name, ARRAY, _integers(place.shape))
            for name, place in self.places.items()
            if len(place.shape) > MOST_SIDES
        ]
        start = MAGIC + struct.pack("<IQQ", VERSIONS[-1], len(self.places), len(values))
        infos = [_info(name, place) for name, place in self.places.items()]
        text = start + b"".join((*values, *infos))
        return text + bytes(-len(text) % ALIGNMENT)


def _info(name: str, place: Place) -> bytes:
    joined = max(0, len(place.shape) - MOST_SIDES) + 1
    sides = (math.prod(place.shape[:joined]), *place.shape[joined:])[::-1]
    numbers = struct.pack(f"<I{len(sides)}Q", len(sides), *sides)
    return _text(name) + numbers + struct.pack("<IQ", _TYPE_NUMBERS[place.dtype], place.start)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _value(key: str, kind: int, value: bytes) -> bytes:
    return _text(key) + struct.pack("<I", kind) + value


def _number(key: str, value: int) -> bytes:
    return _value(key, _SCALAR_NUMBERS["I"], struct.pack("<I", value))


def _integers(values: tuple[int, ...]) -> bytes:
    return struct.pack(f"<IQ{len(values)}i", _SCALAR_NUMBERS["i"], len(values), *values)
