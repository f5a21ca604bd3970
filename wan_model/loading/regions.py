"""Where the tensors of a checkpoint lie in its files."""

from os import PathLike

from ..offload import FileRegion
from .checkpoint import open_checkpoint
from .formats import dtype_of


def file_regions(path: str | PathLike[str]) -> dict[str, FileRegion]:
    """Returns the place of every tensor, by official name; what `offload.HostModel` reads from.

    Raises:
        CheckpointError: for anything that is not one whole, healthy part of Wan2.2.
    """
    tensors = open_checkpoint(path).tensors
    dtypes = {name: dtype_of(tensors, name) for name in tensors}
    return {
        name: FileRegion(entry.file, entry.start, entry.bytes, dtype)
        for name, entry in tensors.items()
        if (dtype := dtypes[name]) is not None
    }
