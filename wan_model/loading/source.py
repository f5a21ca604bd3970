"""What a file of weights gives, whatever its container: raw tensors, read as views of the file.

A container is a module that lists a file's tensors, as `source_safetensors` does.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..host_memory import is_full
from ..unreadable import unreadable


@dataclass(frozen=True, kw_only=True)
class RawTensor:
    """One tensor of a file, not read yet."""

    name: str
    """The key in the file."""
    file: Path
    start: int
    """Position of the first byte in the file."""
    nbytes: int
    stored_dtype: str
    """As the file spells it: "F32", "BF16", "F8_E4M3"."""
    shape: tuple[int, ...]
    """In items of the stored dtype, of which one may hold several codes."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """An open file: its header, checked, and nothing of its data."""

    tensors: tuple[RawTensor, ...]
    """In the order of their bytes."""
    metadata: dict[str, str]


@dataclass
class Reader:
    """Reads tensors as they are stored, on the CPU. Each file is mapped once.

    A tensor is a view of the file: no memory is used until its values are touched, and then only
    the system's file cache, which is given back under pressure. What is written to a tensor stays
    in memory. The mapping lives as long as the reader or one of its tensors.
    """

    _mapped: dict[Path, torch.UntypedStorage] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, raw: RawTensor, dtype: torch.dtype) -> Tensor:
        """Returns a tensor.

        Args:
            raw: where it lies.
            dtype: what its bytes are in memory; as many as the stored dtype has.

        Raises:
            CheckpointError: if the file was cut off, or its drive cannot map files.
            ShortageError: if the file cannot be opened now.
        """
        if raw.nbytes == 0:
            return torch.empty(raw.shape, dtype=dtype)
        mapped = self._mapped.get(raw.file)
        if mapped is None:
            mapped = self._mapped[raw.file] = _map(raw)
        # Its own piece of the storage, as if each tensor had been read alone.
        data = torch.asarray(mapped[raw.start : raw.start + raw.nbytes], dtype=torch.uint8)
        # Some writers do not align tensors; kernels may rely on it.
        if data.data_ptr() % dtype.itemsize:
            data = data.clone()
        return data.view(dtype).view(raw.shape)

    def close(self) -> None:
        """Lets go of the files, of which tensors keep theirs."""
        self._mapped.clear()


class ShapesOnly(Reader):
    """Gives tensors that have shapes and dtypes but no data."""

    def __call__(self, raw: RawTensor, dtype: torch.dtype) -> Tensor:
        """Returns a tensor on the meta device."""
        return torch.empty(raw.shape, dtype=dtype, device="meta")


def check_finite(raw: RawTensor, values: Tensor) -> None:
    """Refuses scales that are infinity or NaN; tensors without data pass."""
    if values.is_meta or bool(values.isfinite().all()):
        return
    broken = values[~values.isfinite()][0].item()
    raise CheckpointError(
        f"{raw.file.name} holds broken scales. Got {broken} in {shown(raw.name)}, need finite "
        "values. Download the file again, or choose another version of the model."
    )


def _map(raw: RawTensor) -> torch.UntypedStorage:
    try:
        with raw.file.open("rb") as stream:  # says why it cannot be, which torch only does in words
            nbytes = os.fstat(stream.fileno()).st_size
        if nbytes < raw.start + raw.nbytes:
            need = f"{raw.start + raw.nbytes} bytes"
            raise damaged(raw.file, "It was cut off", f"{nbytes} bytes", need)
        mapped = torch.UntypedStorage.from_file(str(raw.file), shared=False, nbytes=nbytes)
    except (RuntimeError, OSError) as error:
        if is_full(error):
            raise  # not the file's fault
        if isinstance(error, OSError):
            advice = "Check the path and its permissions."
            raise unreadable(raw.file.name, error, advice) from error
        # It could be opened. With its whole path, there may be no room for PyTorch's reason.
        got = shown(str(error).replace(str(raw.file), raw.file.name))
        raise CheckpointError(
            f"{raw.file.name} cannot be mapped into memory. Got '{got}', need a drive that can map "
            "files. Copy the file to a local disk."
        ) from error
    assert isinstance(mapped, torch.UntypedStorage)
    return mapped


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


def first_names(names: list[str], count: int = 4) -> str:
    """Returns the first few names for a message, and how many more there are."""
    listed = ", ".join(shown(name) for name in names[:count])
    return listed if len(names) <= count else f"{listed} and {len(names) - count} more"
