"""What workers do not share: a folder that is this user's alone, logs that do not grow for ever."""

import logging
import os
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)

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


def shorten(log: Path, *, quiet: bool = False) -> bool:
    """Moves the end of a log's text to a second file once there is too much of it.

    The program that writes goes on in the same file. A line in between may get lost. A log that
    cannot be shortened, for instance on a full disk, stays as it is: no worker ends for that.

    Args:
        log: a worker's.
        quiet: say nothing of a failure.

    Returns:
        Whether it is as short as it should be.
    """
    try:
        if log.stat().st_size > MOST_LOG_BYTES:
            with log.open("rb") as source, log.with_suffix(".old.log").open("wb") as kept:
                source.seek(-MOST_LOG_BYTES, os.SEEK_END)
                kept.write(source.read(MOST_LOG_BYTES))
            os.truncate(log, 0)
    except FileNotFoundError:
        return True  # nothing was written yet, or somebody has tidied up
    except OSError as error:
        if not quiet:
            logger.warning("A worker's log cannot be shortened and goes on growing: %s", error)
        return False
    return True


def shorten_while_written(log: Path, *, quiet: bool = False) -> bool:
    """Does the same while a program has it open, on systems where that writes at its end."""
    return sys.platform == "win32" or shorten(log, quiet=quiet)
