"""What workers do not share: a folder that is this user's alone, logs that do not grow for ever."""

import os
import shutil
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

MOST_LOG_BYTES = 16 << 20
"""Of a log and of the one before it."""

LOOK_SECONDS = 30.0
"""How often a log's size is looked at."""


def default_folder(port: int) -> Path:
    """Returns the folder of the farm at a port: one of this user's for each."""
    user = f"{os.getuid()}-" if hasattr(os, "getuid") else ""
    return Path(tempfile.gettempdir()) / f"wanduet-farm-{user}{port}"


def claim(folder: Path) -> None:
    """Makes a folder that nobody else can look into or write to, if it is not there.

    The temporary folder is everybody's: somebody else may have made one of this name before.

    Raises:
        PermissionError: if it is somebody else's, or open to others.
        OSError: if it cannot be made.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    if not hasattr(os, "getuid"):
        return  # Windows: the temporary folder is the user's own
    found = folder.lstat()
    whose = found.st_uid == os.getuid() and stat.S_ISDIR(found.st_mode)
    if not whose or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(
            f"The farm's folder is not this user's alone. Got {folder}, need one that nobody else "
            "can write to or read. Remove it, or choose another with --folder."
        )


def shorten(log: Path) -> None:
    """Moves a log's text to a second file once there is too much of it.

    The program that writes goes on in the same file. A line in between may get lost.
    """
    with suppress(FileNotFoundError):  # nothing was written yet, or somebody has tidied up
        if log.stat().st_size > MOST_LOG_BYTES:
            shutil.copyfile(log, log.with_suffix(".old.log"))
            os.truncate(log, 0)


def shorten_while_written(log: Path) -> None:
    """Does the same while a program has it open, on systems where that writes at its end."""
    if sys.platform != "win32":
        shorten(log)
