"""Writes checkpoints: tensors by name, with ComfyUI's notes on weights that need one."""

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..loading.encodings import NOTE, encoding_of, write_note
from ..loading.source_safetensors import DTYPES
from ..quant import StoredWeight
from .partial_file import new_file

ALIGNMENT_BYTES = 64
"""Where the data starts in the file, for processors' vector instructions."""


def weight_tensors(layer: str, stored: StoredWeight) -> Iterator[tuple[str, Tensor]]:
    """Yields what a file holds of a layer's weight: codes, scales and the note on them.

    There is no note where ComfyUI has no name for the format.
    """
    encoding = encoding_of(stored.format)
    for leaf, tensor in stored.tensors():
        yield f"{layer}.{encoding.leaves.get(leaf, leaf)}", tensor
    if encoding.can_note(stored):
        yield f"{layer}.{NOTE}", write_note(encoding)


@dataclass(frozen=True)
class Place:
    """One tensor of a file to be written."""

    dtype: str
    """As the file spells it."""
    shape: tuple[int, ...]
    start: int
    """First byte in the data."""
    nbytes: int


@dataclass(frozen=True)
class Layout(ABC):
    """The order of tensors in a file of some container."""

    places: dict[str, Place]
    """By name, in order."""

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return max(place.start + place.nbytes for place in self.places.values())

    @abstractmethod
    def header(self, metadata: dict[str, str]) -> bytes:
        """Returns the start of the file; the data follows."""


@dataclass(frozen=True)
class FileLayout(Layout):
    """That of safetensors."""

    @classmethod
    def of(cls, tensors: Iterable[tuple[str, Tensor]]) -> "FileLayout":
        """Lays tensors out, which need no data, those with wide items first: all are aligned."""
        places: dict[str, Place] = {}
        end = 0
        for name, tensor in sorted(tensors, key=lambda item: -item[1].itemsize):
            places[name] = Place(DTYPES[tensor.dtype], tuple(tensor.shape), end, tensor.nbytes)
            end += tensor.nbytes
        return cls(places)

    def header(self, metadata: dict[str, str]) -> bytes:
        """`source_safetensors` describes it."""
        fields: dict[str, object] = {"__metadata__": metadata}
        for name, place in self.places.items():
            offsets = (place.start, place.start + place.nbytes)
            fields[name] = {"dtype": place.dtype, "shape": place.shape, "data_offsets": offsets}
        text = json.dumps(fields).encode()
        text += b" " * (-(8 + len(text)) % ALIGNMENT_BYTES)
        return len(text).to_bytes(8, "little") + text


def write_checkpoint(
    file: Path,
    layout: Layout,
    tensors: Iterable[tuple[str, Tensor]],
    metadata: dict[str, str],
) -> None:
    """Writes a file beside its final place, and moves it there when it is whole.

    Args:
        file: to write; its folder is made if missing.
        layout: of exactly the tensors that follow.
        tensors: in any order; one at a time is in memory.
        metadata: of the file.

    Raises:
        OSError: if it cannot be written; nothing is left behind then.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(file.parent).free
    if free_bytes < layout.nbytes:
        raise OSError(
            f"{layout.nbytes / 2**30:.1f} GiB are needed and {free_bytes / 2**30:.1f} GiB are free"
        )
    with new_file(file) as stream:
        stream.write(layout.header(metadata))
        data_start = stream.tell()
        for name, tensor in tensors:
            stream.seek(data_start + layout.places[name].start)
            stream.write(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
