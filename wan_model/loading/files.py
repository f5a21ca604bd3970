"""From the path that a person gives to the files that belong to it: opened, and what names tell.

A path may be one file, a folder, the index of a sharded checkpoint, or any one of its shards.
Nothing but safetensors and GGUF is ever opened; a pickled file could run code.
"""

import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

from ..errors import CheckpointError
from ..unreadable import is_shortage, unreadable
from .source import RawTensor, damaged, first_names, shown
from .source_gguf import MAGIC, open_gguf
from .source_safetensors import MAX_HEADER_BYTES, open_safetensors, parse_json

log = logging.getLogger(__name__)

Expert = Literal["high", "low"]

INDEX_SUFFIX = ".safetensors.index.json"
MAX_CONFIG_BYTES = 1 << 20
"""Of config.json; real ones have some hundred bytes."""

PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
SHARD_NAME = re.compile(r"-\d+-of-\d+\.(safetensors|sft)$")

SAFETENSORS_ADVICE = "Choose the .safetensors version of the model."
CONVERT_ADVICE = (
    "Choose the .safetensors version, or make one: `python -m wan_model.convert FILE` reads such "
    "files in a process of its own, without running what is in them."
)


@dataclass(frozen=True, kw_only=True)
class CheckpointFiles:
    """The files of one checkpoint."""

    files: tuple[Path, ...]
    folder: Path | None = None
    """The checkpoint's own folder, if it has one: only then do files beside it belong to it."""
    keys: dict[str, str] = field(default_factory=dict)
    """Of a sharded checkpoint: the file name that the index gives for each key."""


@dataclass(frozen=True, kw_only=True)
class OpenFiles:
    """The files of one checkpoint, of which headers have been read and nothing else."""

    folder: Path | None
    """See `CheckpointFiles`."""
    tensors: list[RawTensor]
    metadata: dict[str, str]
    is_gguf: bool
    config_json: str | None
    """Text of config.json in the checkpoint's own folder."""
    expert: Expert | None
    """The one that the path's names speak of."""


def open_files(path: Path) -> OpenFiles:
    """Opens the files of a checkpoint.

    Raises:
        CheckpointError: for files that are missing, unreadable, damaged, or of another kind.
        ShortageError: if there is no memory for the headers, or no file handle.
    """
    try:
        found = find_files(path)
        config_json, expert = _config_beside(found), guess_expert(path)
        with_gguf = [is_gguf(file) for file in found.files]
        sources = [
            open_gguf(file) if gguf else open_safetensors(file)
            for file, gguf in zip(found.files, with_gguf, strict=True)
        ]
    except (MemoryError, OSError) as error:
        raise unreadable(shown(path.name), error, "Check the path and its permissions.") from error
    tensors = [raw for source in sources for raw in source.tensors]
    present = {(raw.name, raw.file.name) for raw in tensors}
    absent = [name for name, file in found.keys.items() if (name, file) not in present]
    if absent:
        raise CheckpointError(
            f"The index of {path.name} does not fit its parts. Got parts without {len(absent)} "
            f"keys ({first_names(absent)}), need every key in the part that the index names. "
            "Download index and parts again, from the same place."
        )
    return OpenFiles(
        folder=found.folder,
        tensors=tensors,
        metadata={key: text for source in sources for key, text in source.metadata.items()},
        is_gguf=any(with_gguf),
        config_json=config_json,
        expert=expert,
    )


def is_gguf(file: Path) -> bool:
    """Tells files of GGUF by name, or by the first bytes."""
    with file.open("rb") as stream:
        return file.suffix.lower() == ".gguf" or stream.read(len(MAGIC)) == MAGIC


def _config_beside(files: CheckpointFiles) -> str | None:
    """Returns the text of config.json in the checkpoint's own folder, if it has both."""
    config = files.folder / "config.json" if files.folder else None
    if config is None or not config.is_file():
        return None
    if config.stat().st_size > MAX_CONFIG_BYTES:
        raise CheckpointError(
            f"config.json beside {files.files[0].name} cannot be used. Got {config.stat().st_size} "
            f"bytes, need at most {MAX_CONFIG_BYTES}. Download config.json again."
        )
    return config.read_text("utf-8", "replace")


def find_files(path: Path) -> CheckpointFiles:
    """Finds the files of a checkpoint.

    Raises:
        CheckpointError: if there is no such file, if it is of another kind, or if parts of it
            are missing.
    """
    if not _is_there(path):
        raise CheckpointError(
            f"There is no checkpoint at this path. Got {path}, need an existing file or folder. "
            "Check the name, or refresh the list of models."
        )
    if path.is_dir():
        return _find_in_folder(path)
    if not path.is_file():
        raise CheckpointError(
            f"{shown(path.name)} cannot be used. Got a pipe or a device, need a regular file. "
            f"{SAFETENSORS_ADVICE}"
        )
    if path.name.endswith(INDEX_SUFFIX):
        return _read_index(path)
    refuse_other_files(path)
    for index in sorted(path.parent.glob(f"*{INDEX_SUFFIX}")):
        if _mentions(index, path.name):
            return _read_index(index)
    if SHARD_NAME.search(path.name):
        raise CheckpointError(
            f"{path.name} is one part of a sharded checkpoint without an index. Got no "
            f"*{INDEX_SUFFIX} that names it, need one beside it. Download the index file too."
        )
    return CheckpointFiles(files=(path,))


def _is_there(path: Path) -> bool:
    """Whether there is anything; unlike newer Pythons' `Path.exists`, it raises if it may not look.

    Raises:
        OSError: for a folder that may not be entered, among others.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    return True


def refuse_other_files(file: Path) -> None:
    """Refuses files that are recognisably no model files, by name and by first bytes.

    Raises:
        CheckpointError: names what the file is.
    """
    with file.open("rb") as stream:
        start = stream.read(16)
    advice = SAFETENSORS_ADVICE
    if is_pickle(file, start):
        found, advice = "a pickled PyTorch file, which could run code when opened", CONVERT_ADVICE
    elif not start:
        found = "an empty file"
    elif start.startswith(b"version https://"):
        found = "a Git LFS pointer instead of the model itself"
    elif start.lstrip()[:1] == b"<":
        found = "a web page instead of a model"
    else:
        return
    raise CheckpointError(
        f"{file.name} cannot be used. Got {found}, need safetensors or GGUF. {advice}"
    )


def is_pickle(file: Path, start: bytes) -> bool:
    """Tells pickled files by name, or by the first bytes of zip archives and protocol 2 to 5.

    A safetensors file may begin like a pickle, since its first bytes are a length; then the brace
    of the header decides.
    """
    if file.suffix.lower() in PICKLE_SUFFIXES or start.startswith((b"PK\x03\x04", b"\x1f\x8b")):
        return True
    return start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05" and start[8:9] != b"{"


def _find_in_folder(folder: Path) -> CheckpointFiles:
    indices = sorted(f for f in folder.glob(f"*{INDEX_SUFFIX}") if f.is_file())
    singles = [f for f in _model_files(folder) if not SHARD_NAME.search(f.name)]
    if len(indices) == 1:
        return _read_index(indices[0])
    if not indices and len(singles) == 1:
        refuse_other_files(singles[0])
        return CheckpointFiles(files=(singles[0],), folder=folder)
    inside = sorted(sub.name for sub in folder.iterdir() if sub.is_dir() and _model_files(sub))
    found = [file.name for file in indices or singles]
    raise CheckpointError(
        f"The folder {folder.name} is not one checkpoint. Got {_listed(found)}, need exactly one "
        f"*.safetensors, *.gguf or *{INDEX_SUFFIX}. Choose "
        + (f"one of its folders: {_listed(inside)}." if inside else "a file.")
    )


def _model_files(folder: Path) -> list[Path]:
    """Returns a folder's files of safetensors; those of GGUF where it has none."""
    for pattern in ("*.safetensors", "*.gguf"):
        found = sorted(file for file in folder.glob(pattern) if file.is_file())
        if found:
            return found
    return []


def _listed(names: list[str]) -> str:
    return ", ".join(shown(name) for name in names[:6]) or "no model file"


def _mentions(index: Path, name: str) -> bool:
    """Whether an index may be that of a file. What else lies in the file's folder is no matter.

    A shard's index is read even if it is damaged: without it, nothing is known of the others.
    """
    try:
        text = _read_text(index)
        if os.fsencode(name) not in text:
            return False
        fields = parse_json(text)
    except (OSError, ValueError) as error:
        if is_shortage(error):
            raise  # it may be that of the file all the same
        if SHARD_NAME.search(name):
            return True
        if isinstance(error, OSError):
            log.warning(
                "%s cannot be read: %s. If it is the index of %s, other parts of that model are "
                "missing. Make it readable, or move it away.",
                *(shown(index.name), error.strerror or error, shown(name)),
            )
        return False
    keys = fields.get("weight_map") if isinstance(fields, dict) else None
    return isinstance(keys, dict) and name in keys.values()


def _read_text(index: Path) -> bytes:
    """Returns nothing of what is too large for an index, or no file."""
    small = index.is_file() and index.stat().st_size <= MAX_HEADER_BYTES
    return index.read_bytes() if small else b""


def _read_index(index: Path) -> CheckpointFiles:
    try:
        fields = parse_json(_read_text(index))
    except ValueError as error:
        raise damaged(index, "The index cannot be read", error, "JSON") from error
    keys = fields.get("weight_map") if isinstance(fields, dict) else None
    if not isinstance(keys, dict) or not keys or not all(isinstance(v, str) for v in keys.values()):
        raise damaged(index, "The index has no weight_map", fields, "file names by key")
    names = sorted(set(keys.values()))
    for name in names:
        if not _stays_inside(name):
            raise CheckpointError(
                f"{index.name} is unsafe. Got the part {shown(name)}, need files inside the "
                "index's own folder. Do not use this download."
            )
    files = tuple(index.parent / name for name in names)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(
            f"{index.name} names parts that are not there. Got {len(files) - len(missing)} of "
            f"{len(files)} parts, need also {_listed(missing)}. Download the missing parts."
        )
    for file in files:
        refuse_other_files(file)
    return CheckpointFiles(files=files, folder=index.parent, keys=keys)


def _stays_inside(name: str) -> bool:
    """Whether a part's name points into the index's folder, read as a POSIX or Windows path.

    Lexically: download caches keep the parts as links to elsewhere.
    """
    parts = PureWindowsPath(name).parts
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor != ""
    return bool(parts) and not absolute and ".." not in parts and name.isprintable()


def guess_expert(path: Path) -> Expert | None:
    """Guesses the expert from the words "high" and "low" in the file name, then the folder name.

    A folder's word counts if it speaks of noise, or is all of its name: folders are also called
    "high quality". In diffusers pipelines the folder `transformer` beside a `transformer_2` is the
    high-noise one.
    """
    expert, _ = _word(path.name)
    return expert or _guess_folder(path, told_apart=False)


def says_noise(name: str) -> Expert | None:
    """Returns the expert of whose noise a file's name speaks, as the official names do."""
    expert, sure = _word(name)
    return expert if sure else None


def guess_pair(high: Path, low: Path) -> tuple[Expert | None, Expert | None]:
    """Guesses the experts of two files, where a bare word counts only if they differ in it."""
    (of_high, sure), (of_low, sure_too) = _word(high.name), _word(low.name)
    counts = of_high != of_low or (sure and sure_too)
    above = _guess_folder(high, told_apart=True)
    beside = _guess_folder(low, told_apart=True)
    tells = above != beside
    return (
        (of_high if counts else None) or (above if tells else None),
        (of_low if counts else None) or (beside if tells else None),
    )


def _guess_folder(path: Path, *, told_apart: bool) -> Expert | None:
    expert, sure = _word(path.parent.name)
    if expert and (told_apart or sure or path.parent.name.lower() == expert):
        return expert
    folder = path if path.is_dir() else path.parent
    if (
        folder.name in ("transformer", "transformer_2")
        and (folder.parent / "transformer_2").is_dir()
    ):
        return "high" if folder.name == "transformer" else "low"
    return None


def _word(name: str) -> tuple[Expert | None, bool]:
    """Returns the one expert that a name speaks of, and whether it speaks of noise."""
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower()
    noise = {*re.findall(r"(high|low)(?=[ _-]?noise)", spaced)}
    found = noise or {*re.findall(r"(?<![a-z])(high|low)(?![a-z])", spaced)}
    if len(found) != 1:
        return None, False
    return ("high" if "high" in found else "low"), bool(noise)
