"""One checkpoint with official key names: its headers read, its tensors read one by one."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError
from .files import CheckpointFiles, find_files
from .header import TensorEntry, damaged, read_header, shown
from .keymap import PREFIXES, Component, KeyStyle, official_names, recognise, strip_prefix
from .other_models import (
    BUNDLED_PARTS,
    LORA,
    STRANGERS,
    WAN_RELATIVES,
    WHOLE_PIPELINE,
    OtherModel,
    find_other_model,
)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A part of Wan2.2 on disk. Nothing but its headers has been read."""

    path: Path
    """As given: a file, an index or a folder."""
    folder: Path | None
    """The folder that belongs to this checkpoint alone, or None for a file among others."""
    component: Component
    style: KeyStyle
    tensors: dict[str, TensorEntry]
    """By official name."""
    metadata: dict[str, str]

    def read_config(self, name: str) -> str | None:
        """Returns the text of `name` in the checkpoint's own folder, if there is such a file."""
        file = self.folder / name if self.folder else None
        return file.read_text("utf-8", "replace") if file and file.is_file() else None


def open_checkpoint(path: str | PathLike[str]) -> Checkpoint:
    """Finds, checks and names the tensors of a checkpoint.

    Args:
        path: a .safetensors file, a shard or the index of a sharded one, or a folder with one.

    Raises:
        CheckpointError: for anything that is not one whole, healthy part of Wan2.2.
    """
    path = Path(path)
    try:
        files = find_files(path)
        entries, metadata = _read_headers(files)
    except OSError as error:
        raise CheckpointError(
            f"{path.name} cannot be read. Got {error.strerror or error}, need a readable file. "
            "Check the path and its permissions."
        ) from error
    _check_index(path, files, entries)
    component, style = _recognise(path, entries)
    return Checkpoint(
        path=path,
        folder=files.folder,
        component=component,
        style=style,
        tensors=_rename(path, entries, component, style),
        metadata=metadata,
    )


@contextmanager
def tensor_reader() -> Iterator[Callable[[TensorEntry], Tensor]]:
    """Gives a function that reads tensors as they are stored, by mmap, on the CPU.

    A tensor is a view of the file: no memory is used until its numbers are touched, and then only
    the system's file cache, which is given back under pressure. The function raises
    `CheckpointError` if the safetensors library refuses the file.
    """
    opened: dict[Path, Any] = {}
    with ExitStack() as stack:

        def read(entry: TensorEntry) -> Tensor:
            try:
                if entry.file not in opened:
                    opened[entry.file] = stack.enter_context(safe_open(entry.file, framework="pt"))
                tensor = opened[entry.file].get_tensor(entry.name)
            except (SafetensorError, OSError) as error:
                raise damaged(
                    entry.file, "safetensors refuses it", error, "a valid file"
                ) from error
            # Some writers do not align tensors; kernels may rely on it.
            return tensor if tensor.data_ptr() % tensor.itemsize == 0 else tensor.clone()

        yield read


def _read_headers(files: CheckpointFiles) -> tuple[list[TensorEntry], dict[str, str]]:
    entries: list[TensorEntry] = []
    metadata: dict[str, str] = {}
    for file in files.files:
        header = read_header(file)
        entries += header.tensors
        metadata |= header.metadata
    return entries, metadata


def _check_index(path: Path, files: CheckpointFiles, entries: list[TensorEntry]) -> None:
    present = {(entry.name, entry.file.name) for entry in entries}
    absent = [name for name, file in files.keys.items() if (name, file) not in present]
    if absent:
        raise CheckpointError(
            f"The index of {path.name} does not fit its parts. Got parts without {len(absent)} "
            f"keys ({first_names(absent)}), need every key in the part that the index names. "
            "Download index and parts again, from the same place."
        )


def _recognise(path: Path, entries: list[TensorEntry]) -> tuple[Component, KeyStyle]:
    names = [strip_prefix(entry.name) for entry in entries]
    bundled = any(entry.name.startswith(BUNDLED_PARTS) for entry in entries)
    if bundled and any(entry.name.startswith("model.diffusion_model.") for entry in entries):
        raise _refusal(path, WHOLE_PIPELINE)
    _refuse(path, names, (LORA,))
    kind = recognise(names)
    if kind is None or kind[0] == "dit":
        _refuse(path, names, WAN_RELATIVES)
    if kind is None:
        _refuse(path, names, STRANGERS)
        shown_names = first_names(names) or "(none)"
        raise _refusal(path, OtherModel(f"an unknown model with keys such as {shown_names}"))
    component, style = kind
    prefixed = any(entry.name.startswith(PREFIXES) for entry in entries)
    return component, "comfy prefix" if style == "official" and prefixed else style


def _refuse(path: Path, names: list[str], models: tuple[OtherModel, ...]) -> None:
    found = find_other_model(names, models)
    if found:
        raise _refusal(path, found)


def _refusal(path: Path, found: OtherModel) -> CheckpointError:
    return CheckpointError(
        f"{path.name} is not a supported model. Got {found.what}, need a Wan2.2 T2V-A14B, "
        f"I2V-A14B or TI2V-5B model, a Wan VAE or a umT5 text encoder. {found.advice}"
    )


def _rename(
    path: Path, entries: list[TensorEntry], component: Component, style: KeyStyle
) -> dict[str, TensorEntry]:
    names = [strip_prefix(entry.name) for entry in entries]
    to_official = official_names(component, style, set(names))
    tensors: dict[str, TensorEntry] = {}
    doubled: list[str] = []
    for name, entry in zip(names, entries, strict=True):
        official = to_official(name)
        if official in tensors:
            doubled.append(f"{tensors[official].name} and {entry.name}")
        tensors[official] = entry
    if doubled:
        raise CheckpointError(
            f"{path.name} holds tensors twice. Got {len(doubled)} doubled keys "
            f"({first_names(doubled)}), need each tensor once. Use an unmerged original file."
        )
    return tensors


def first_names(names: list[str], count: int = 4) -> str:
    """Returns the first few names for a message, and how many more there are."""
    listed = ", ".join(shown(name) for name in names[:count])
    return listed if len(names) <= count else f"{listed} and {len(names) - count} more"
