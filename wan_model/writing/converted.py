"""Converted weights kept in a file, so that they need not be converted again at the next start.

The file is an ordinary checkpoint with official names, which `load_dit` reads. Its metadata says
which version of which source it was made from.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from ..config import DiTConfig
from ..errors import CheckpointError, ShortageError, UnreadableError, WanError
from ..loading.checkpoint import Checkpoint, CheckpointLike, open_checkpoint
from ..loading.entries import WeightEntry
from ..loading.sizes import HEAD_DIM
from ..loading.source import Reader, ShapesOnly
from ..loading.source_safetensors import open_safetensors
from ..quant import AS_STORED, WeightFormat, convert, find, holds, short_name
from ..unreadable import unreadable
from .partial_file import remove_abandoned
from .writer import FileLayout, weight_tensors, write_checkpoint

log = logging.getLogger(__name__)

PATH = "wanduet_path"
"""In the metadata: where the source was."""

VERSION = "1"
"""Of the conversion: files made by another one are made anew."""


def converted_file(
    source: CheckpointLike,
    weights: str,
    folder: str | PathLike[str],
    *,
    device: torch.device | str = "cpu",
) -> Checkpoint:
    """Returns a file with a transformer's weights in another format, and makes it if need be.

    A file that cannot be written (a full disk) or read (no permission) is no error: the source
    gives the same model, only later. Memory holds one tensor at a time.

    Args:
        source: what `load_dit` takes.
        weights: one of `quant.names()` except "auto".
        folder: where converted files are kept; made if missing.
        device: where to convert.

    Returns:
        the converted checkpoint, or `source` if there is nothing to convert or no way to keep it.

    Raises:
        CheckpointError: for a source that is damaged or no transformer.
        ShortageError: if there is no memory or file handle to look at what is kept.
        BackendError: for an unknown format.
    """
    checkpoint = open_checkpoint(source)
    if weights == AS_STORED:
        return checkpoint
    target = find(weights).format
    config = checkpoint.require(DiTConfig)
    matrices = [entry for entry in checkpoint.entries.values() if entry.is_block_matrix]
    # Shapes do not tell the number of heads, so a file without config.json cannot have others.
    if config.head_dim != HEAD_DIM or not all(_is_convertible(entry, target) for entry in matrices):
        return checkpoint
    if all(holds(entry.format, target) for entry in matrices):
        return checkpoint
    name = short_name(target)
    file, metadata = Path(folder) / _file_name(checkpoint, name), _identity(checkpoint, name)
    try:
        found = _opened(file, metadata)
        if found is None:
            _prune(Path(folder))
            _write(file, partial(_tensors, checkpoint, target, torch.device(device)), metadata)
            found = _opened(file, metadata)
    except UnreadableError as error:
        log.warning("%s Until then, %s is converted at every start.", error, checkpoint.path.name)
        return checkpoint
    except OSError as error:
        log.warning(
            "Converted weights of %s cannot be kept in %s: %s. They will be converted at every "
            "start.",
            checkpoint.path.name,
            folder,
            error.strerror or error,
        )
        return checkpoint
    return found or checkpoint  # somebody may have tidied up at once


def _is_convertible(entry: WeightEntry, target: WeightFormat) -> bool:
    """Whether a weight is a matrix of a fitting width; `load_dit` refuses others."""
    return len(entry.shape) == 2 and 0 not in entry.shape and target.fits(entry.shape)


def _file_name(checkpoint: Checkpoint, format_name: str) -> str:
    """Returns one name per source and format, so that a newer version replaces an older one.

    It names the expert, since that is guessed from file names.
    """
    path = checkpoint.folder or checkpoint.path
    digest = hashlib.sha256(str(checkpoint.path.resolve()).encode()).hexdigest()[:12]
    expert = f"{checkpoint.info.expert}_noise" if checkpoint.info.expert else ""
    base = path.name if checkpoint.folder else path.stem
    parts = (base, expert, format_name, digest, "safetensors")
    return ".".join(part for part in parts if part)


def _identity(checkpoint: Checkpoint, format_name: str) -> dict[str, str]:
    """Returns what a file made from this source has in its metadata."""
    stamps = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in checkpoint.files]
    return {
        "format": "pt",
        PATH: str(checkpoint.path.resolve()),
        "wanduet_source": json.dumps(stamps),
        "wanduet_format": format_name,
        "wanduet_version": VERSION,
    }


def _opened(file: Path, metadata: dict[str, str]) -> Checkpoint | None:
    """Returns a file that is whole and was made from the source that the metadata describe.

    Raises:
        ShortageError: if nobody can tell, as the file cannot be read now.
    """
    try:
        if not file.is_file():
            return None
        checkpoint = open_checkpoint(file)
    except OSError as error:
        raise unreadable(file.name, error, "Check the path and its permissions.") from error
    except ShortageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None  # another program tidied up after the look
        raise
    except CheckpointError as error:
        log.info("%s will be written anew: %s", file.name, error)
        return None
    return checkpoint if checkpoint.metadata == metadata else None


def _write(
    file: Path, tensors: Callable[[Reader], Iterator[tuple[str, Tensor]]], metadata: dict[str, str]
) -> None:
    layout = FileLayout.of(tensors(ShapesOnly()))
    size, started = layout.nbytes / 2**30, time.monotonic()
    log.info("Converting to %s: %.1f GiB of disk, kept for later", file, size)
    write_checkpoint(file, layout, tensors(Reader()), metadata)
    log.info("Wrote %s in %.0f s", file.name, time.monotonic() - started)


def _prune(folder: Path) -> None:
    """Removes what nobody will use again: files of sources that have gone, and of killed programs.

    A source whose whole folder has gone may be on a drive that is not there at the moment.
    """
    remove_abandoned(folder)
    for file in folder.glob("*.safetensors"):
        try:
            source = Path(open_safetensors(file).metadata[PATH])
            if not _has_gone(source):
                continue
            file.unlink()
        except (WanError, MemoryError, OSError, KeyError, ValueError):
            continue  # not ours, or not ours to remove, or not to be read now
        log.info("Removed %s: there is no %s any more", file.name, source.name)


def _has_gone(source: Path) -> bool:
    """Whether a file is missing in a folder that is there.

    Raises:
        OSError: if nobody can tell: a drive without an answer, a folder that may not be entered.
    """
    try:
        source.stat()
    except FileNotFoundError:
        return source.parent.is_dir()
    return False


def _tensors(
    checkpoint: Checkpoint, target: WeightFormat, device: torch.device, read: Reader
) -> Iterator[tuple[str, Tensor]]:
    """Yields what goes into the file; one weight is in memory at a time."""
    for entry in checkpoint.entries.values():
        stored = entry.read(read)
        if entry.is_block_matrix:
            if not holds(stored.format, target) and not stored.weight.is_meta:
                stored = stored.to(device)
            yield from weight_tensors(entry.layer, convert(stored, target))
        elif entry.format.block > 1 or entry.format.dtype == torch.float64:
            yield entry.name, stored.dequantize(torch.float32)
        elif entry.format.is_bare:
            # Beside scaled weights they would look like ones whose scale was lost.
            yield entry.name, stored.weight.to(torch.bfloat16)
        elif stored.weight_scale is not None:
            yield from weight_tensors(entry.layer, stored)
        else:
            yield entry.name, stored.weight
