"""Where the tensors of a checkpoint lie in its files."""

from os import PathLike

from ..offload import FileRegion
from .checkpoint import open_checkpoint
from .formats import TORCH_DTYPES


def file_regions(path: str | PathLike[str]) -> dict[str, FileRegion]:
    """Returns the place of every tensor, by official name; what `offload.HostModel` reads from.

    Raises:
        CheckpointError: for anything that is not one whole, healthy part of Wan2.2.
    """
    return {
        name: FileRegion(entry.file, entry.start, entry.bytes, TORCH_DTYPES[entry.dtype])
        for name, entry in open_checkpoint(path).tensors.items()
        if entry.dtype in TORCH_DTYPES
    }
