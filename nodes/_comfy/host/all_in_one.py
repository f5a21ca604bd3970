"""All-in-one files of Wan in models/checkpoints, which our loaders list beside their own folders.

They are listed as "checkpoints/NAME". ComfyUI's own lists stay as they are.
"""

import stat
from functools import lru_cache
from pathlib import Path

import folder_paths

from ....wan_model.unreadable import is_shortage

FOLDER = "checkpoints"
PREFIX = f"{FOLDER}/"

HOLDERS = ("diffusion_models", "vae", "text_encoders")
"""Folders whose kind of file an all-in-one file has in it."""

MARK = b'"model.diffusion_model.head.modulation"'
"""In the header of a file that holds a Wan transformer, and of no other checkpoint."""

LARGEST_HEADER = 1 << 24


def names(folder: str) -> list[str]:
    """Returns the all-in-one files for one of ComfyUI's folders, with the prefix."""
    if folder not in HOLDERS:
        return []
    found = [name for name in folder_paths.get_filename_list(FOLDER) if _is_wan(name)]
    return [PREFIX + Path(name).as_posix() for name in found]


def place(folder: str, name: str) -> tuple[str, str]:
    """Returns where ComfyUI lists a file that our loaders list: its folder, and its name there.

    A file of that name in the folder itself comes first.
    """
    if folder not in HOLDERS or not name.startswith(PREFIX):
        return folder, name
    if name in folder_paths.get_filename_list(folder):
        return folder, name
    wanted = name.removeprefix(PREFIX)
    listed = folder_paths.get_filename_list(FOLDER)
    return FOLDER, next((one for one in listed if Path(one).as_posix() == wanted), wanted)


def _is_wan(name: str) -> bool:
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None or not name.lower().endswith((".safetensors", ".sft")):
        return False
    try:
        status = Path(path).stat()
        regular = stat.S_ISREG(status.st_mode)  # a pipe would keep its reader waiting
        return regular and _has_mark(path, status.st_size, status.st_mtime_ns)
    except (MemoryError, OSError) as error:
        return is_shortage(error)  # it may be one, which its loader will find out


@lru_cache(maxsize=4096)
def _has_mark(path: str, size: int, _: int) -> bool:
    """Whether a file's header has the mark; asked once for each version of a file."""
    with Path(path).open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        return length <= min(size, LARGEST_HEADER) and MARK in stream.read(length)
