"""Memory of the computer: what a container allows, the signs that it is full, giving it back."""

import ctypes
import errno
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

UNLIMITED = 1 << 60
"""What older kernels write where there is no limit, or more."""

ROOT = Path("/")

FULL = ("allocate memory", "not enough memory", "os error 1455)", "error code: <1455>")
"""What messages of PyTorch and safetensors say on Linux and on Windows, there in any language."""

FULL_ON_WINDOWS = (8, 1455)
"""Windows' own numbers: no memory, and no room in the file that it pages memory to."""


def available_bytes(root: Path = ROOT) -> int:
    """Returns the bytes that a program may still take, with what holds copies of files.

    Raises:
        OSError: if the system does not say: it is no Linux.
    """
    rows = (root / "proc/meminfo").read_text().splitlines()
    free = next(int(row.split()[1]) << 10 for row in rows if row.startswith("MemAvailable:"))
    room = container_room(root)
    return free if room is None else min(free, room)


def container_room(root: Path = ROOT) -> int | None:
    """Returns the bytes of memory that the program's container has left, None without a limit.

    A container (a cgroup of Linux) that needs more is ended without a word. Pages of files count
    as free, since the system takes them back.

    Args:
        root: where /proc and /sys lie.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None  # no Linux
    rooms = [room for line in lines for room in _rooms(root, line)]
    return min(rooms, default=None)


def _rooms(root: Path, line: str) -> Iterator[int]:
    """Yields what is left in a group and in all that it is in; `line` is of /proc/self/cgroup."""
    _, controllers, path = line.split(":", 2)
    if controllers == "":
        top = root / "sys/fs/cgroup"
        names = ("memory.max", "memory.current", "file")
    elif "memory" in controllers.split(","):
        top = root / "sys/fs/cgroup/memory"
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache")
    else:
        return
    group = top / path.lstrip("/")
    # Inside of a container, the path may be that outside of it.
    for folder in (group, *group.parents) if group.is_dir() else (top,):
        room = _room(folder, *names)
        if room is not None:
            yield room
        if folder == top:
            return


def _room(folder: Path, limit: str, usage: str, cache: str) -> int | None:
    try:
        allowed = int((folder / limit).read_text())
        used = int((folder / usage).read_text())
        rows = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        files = next((int(value) for name, value in rows if name == cache), 0)
    except (OSError, ValueError):
        return None  # "max", or no such controller
    return None if allowed >= UNLIMITED else max(0, allowed - (used - files))


def is_full(error: BaseException) -> bool:
    """Whether an error means that the system gives no more memory; a GPU's is another one.

    PyTorch has no type of its own for it, nor has safetensors, whose errors have no number.
    """
    if isinstance(error, OSError) and error.errno is not None:
        number = getattr(error, "winerror", None)
        return error.errno == errno.ENOMEM or number in FULL_ON_WINDOWS
    if isinstance(error, torch.OutOfMemoryError) or not isinstance(error, RuntimeError | OSError):
        return isinstance(error, MemoryError)
    return any(text in str(error) for text in FULL)


def give_back() -> None:
    """Has glibc return freed memory to the system, which it keeps for later otherwise."""
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # musl has none
        trim(0)
