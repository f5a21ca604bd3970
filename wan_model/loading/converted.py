"""Converted weights kept in a file, so that they need not be converted again at the next start.

The file is an ordinary scaled checkpoint with official names, which `load_dit` reads. Its metadata
says which version of which source it was made from.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedWriter
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from ..config import DiTConfig
from ..errors import CheckpointError
from ..quant import AS_STORED, WeightFormat, convert, find, holds
from .checkpoint import Checkpoint, open_checkpoint, tensor_reader
from .detect import HEAD_DIM, CheckpointInfo, describe, require
from .formats import (
    SCALE,
    TENSOR_SCALE,
    TORCH_DTYPES,
    block_format,
    dtype_of,
    is_block_matrix,
    shape_of,
)
from .header import TensorEntry, read_header
from .notes import NOTE, is_note, write_note
from .stored import Reader, read_stored

log = logging.getLogger(__name__)

VERSION = "1"
"""Of the conversion: files made by another one are made anew."""

ABANDONED_SECONDS = 3600
"""A partial file that was not written to for this long belongs to no running program."""

ALIGNMENT_BYTES = 64
"""Where the data starts in the file, for processors' vector instructions."""

SPELLINGS = {torch.uint8: "U8", **{dtype: name for name, dtype in TORCH_DTYPES.items()}}
"""Number formats as a header spells them."""


@dataclass(frozen=True)
class _Conversion:
    """One checkpoint, and what it is to become."""

    checkpoint: Checkpoint
    target: WeightFormat
    device: torch.device
    file: Path
    metadata: dict[str, str]

    def tensors(self, read: Reader) -> Iterator[tuple[str, Tensor]]:
        """Yields what goes into the file; one weight is in memory at a time."""
        stored = self.checkpoint.tensors
        for name, entry in stored.items():
            layer = name.removesuffix(".weight")
            if is_block_matrix(name):
                yield from self._weight(read, layer)
            elif block_format(stored, name):
                dense = read_stored(read, self.checkpoint, name)
                yield name, dense.dequantize(torch.float32)
            elif not is_note(name) and not self._comes_with_weight(name):
                yield name, read(entry).to(self._kept_dtype(name))

    def _weight(self, read: Reader, layer: str) -> Iterator[tuple[str, Tensor]]:
        """Yields a block's weight with its scales, and the note that some formats need."""
        weight = read_stored(read, self.checkpoint, f"{layer}.weight")
        if not holds(weight.format, self.target):
            weight = weight.to(self.device)
        for leaf, tensor in convert(weight, self.target).tensors():
            yield f"{layer}.{leaf}", tensor
        if self.target.block > 1:
            yield layer + NOTE, write_note(self.target.name)

    def _comes_with_weight(self, name: str) -> bool:
        """Whether a tensor is the scale of a weight that is read together with its scales."""
        for suffix in (SCALE, TENSOR_SCALE):
            weight = name.removesuffix(suffix) + ".weight"
            if name.endswith(suffix) and weight in self.checkpoint.tensors:
                return is_block_matrix(weight) or bool(
                    block_format(self.checkpoint.tensors, weight)
                )
        return False

    def _kept_dtype(self, name: str) -> torch.dtype:
        """Returns what a tensor outside of the blocks' matrices is stored as.

        8-bit numbers without scale are widened, exactly: beside scaled weights they would look
        like ones whose scale was lost.
        """
        stored = TORCH_DTYPES[self.checkpoint.tensors[name].dtype]
        if stored == torch.float64:
            return torch.float32
        scaled = name.removesuffix(".weight") + SCALE in self.checkpoint.tensors
        return torch.bfloat16 if stored.itemsize == 1 and not scaled else stored


@dataclass(frozen=True)
class _Place:
    """Where a tensor goes in the file's data."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


def converted_file(
    source: str | PathLike[str],
    weights: str,
    folder: str | PathLike[str],
    *,
    device: torch.device | str = "cpu",
) -> Path:
    """Returns a file with a transformer's weights in a number format, and makes it if need be.

    A file that cannot be written (a full disk) is no error: the source gives the same model, only
    later. Memory holds one tensor at a time.

    Args:
        source: what `load_dit` takes.
        weights: a number format: one of `quant.names()` except "auto".
        folder: where converted files are kept; made if missing.
        device: where to convert.

    Returns:
        the converted file, or `source` if there is nothing to convert or no way to keep it.

    Raises:
        CheckpointError: for a source that is damaged or no transformer.
        BackendError: for an unknown number format.
    """
    source = Path(source)
    if weights == AS_STORED:
        return source
    target = find(weights).format
    checkpoint = open_checkpoint(source)
    info = describe(checkpoint)
    config = require(info, DiTConfig)
    # Shapes do not tell the number of heads, so a file without config.json cannot have others.
    if config.head_dim != HEAD_DIM or not _can_be_converted(checkpoint, target):
        return source
    if _is_already(checkpoint, target):
        return source
    file = Path(folder) / _file_name(checkpoint, info, target)
    metadata = _identity(checkpoint, target)
    if _holds(file, metadata):
        return file
    conversion = _Conversion(checkpoint, target, torch.device(device), file, metadata)
    try:
        _write(conversion)
    except OSError as error:
        log.warning(
            "Converted weights of %s cannot be kept in %s: %s. They will be converted at every "
            "start.",
            source.name,
            folder,
            error.strerror or error,
        )
        return source
    return file


def _can_be_converted(checkpoint: Checkpoint, target: WeightFormat) -> bool:
    """Whether all blocks' weights are matrices of fitting widths; `load_dit` refuses others."""
    shapes = (shape_of(checkpoint.tensors, n) for n in checkpoint.tensors if is_block_matrix(n))
    return all(
        len(shape) == 2 and 0 not in shape and shape[1] % target.block == 0 for shape in shapes
    )


def _is_already(checkpoint: Checkpoint, target: WeightFormat) -> bool:
    read = _without_data(checkpoint)
    matrices = (name for name in checkpoint.tensors if is_block_matrix(name))
    return all(holds(read_stored(read, checkpoint, name).format, target) for name in matrices)


def _without_data(checkpoint: Checkpoint) -> Reader:
    """Returns a reader of tensors that have shapes and number formats only."""
    dtypes = {
        entry.name: dtype_of(checkpoint.tensors, n) for n, entry in checkpoint.tensors.items()
    }

    def read(entry: TensorEntry) -> Tensor:
        return torch.empty(entry.shape, dtype=dtypes[entry.name], device="meta")

    return read


def _file_name(checkpoint: Checkpoint, info: CheckpointInfo, target: WeightFormat) -> str:
    """Returns one name per source and format, so that a newer version replaces an older one.

    It names the expert, since `detect` guesses that from file names.
    """
    path = checkpoint.folder or checkpoint.path
    digest = hashlib.sha256(str(checkpoint.path.resolve()).encode()).hexdigest()[:12]
    expert = f"{info.expert}_noise" if info.expert else ""
    base = path.name if checkpoint.folder else path.stem
    parts = (base, expert, _short_name(target), digest, "safetensors")
    return ".".join(part for part in parts if part)


def _short_name(target: WeightFormat) -> str:
    return target.name.removesuffix(" scaled")


def _identity(checkpoint: Checkpoint, target: WeightFormat) -> dict[str, str]:
    """Returns what a file made from this source has in its metadata."""
    files = sorted({entry.file for entry in checkpoint.tensors.values()})
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return {
        "format": "pt",
        "wanduet_source": json.dumps(stamps),
        "wanduet_format": _short_name(target),
        "wanduet_version": VERSION,
    }


def _holds(file: Path, metadata: dict[str, str]) -> bool:
    """Whether a file is whole and was made from the source that the metadata describe."""
    try:
        return file.is_file() and read_header(file).metadata == metadata
    except (OSError, CheckpointError) as error:
        log.info("%s will be written anew: %s", file.name, error)
        return False


def _write(conversion: _Conversion) -> None:
    """Writes the file beside its final place, and moves it there when it is whole.

    Raises:
        OSError: if it cannot be written; nothing is left behind then.
    """
    started = time.monotonic()
    places = _layout(conversion)
    data_bytes = max(place.end for place in places.values())
    conversion.file.parent.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(conversion.file.parent).free
    if free_bytes < data_bytes:
        raise OSError(
            f"{data_bytes / 2**30:.1f} GiB are needed and {free_bytes / 2**30:.1f} GiB are free"
        )
    size = data_bytes / 2**30
    log.info("Converting to %s: %.1f GiB of disk, kept for later", conversion.file, size)
    with _new_file(conversion.file) as stream, tensor_reader() as read:
        stream.write(_header(places, conversion.metadata))
        data_start = stream.tell()
        for name, tensor in conversion.tensors(read):
            stream.seek(data_start + places[name].start)
            stream.write(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    log.info("Wrote %s in %.0f s", conversion.file.name, time.monotonic() - started)


@contextmanager
def _new_file(file: Path) -> Iterator[BufferedWriter]:
    """Opens a partial file that becomes `file` if nothing fails, and vanishes otherwise."""
    partial = file.with_name(file.name + ".partial")
    if partial.exists() and time.time() - partial.stat().st_mtime > ABANDONED_SECONDS:
        partial.unlink()
    stream = partial.open("xb")
    try:
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _layout(conversion: _Conversion) -> dict[str, _Place]:
    """Lays the tensors out, those with wide numbers first, so that all of them are aligned."""
    dry_run = replace(conversion, device=torch.device("meta"))
    outputs = dict(dry_run.tensors(_without_data(conversion.checkpoint)))
    places: dict[str, _Place] = {}
    start = 0
    for name, tensor in sorted(outputs.items(), key=lambda item: -item[1].itemsize):
        end = start + tensor.nbytes
        places[name] = _Place(tensor.dtype, tuple(tensor.shape), start, end)
        start = end
    return places


def _header(places: Mapping[str, _Place], metadata: dict[str, str]) -> bytes:
    """Returns the start of a safetensors file; `header.py` describes it."""
    fields: dict[str, object] = {"__metadata__": metadata}
    for name, place in places.items():
        fields[name] = {
            "dtype": SPELLINGS[place.dtype],
            "shape": place.shape,
            "data_offsets": (place.start, place.end),
        }
    text = json.dumps(fields).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT_BYTES)
    return len(text).to_bytes(8, "little") + text
