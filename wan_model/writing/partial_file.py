"""A file that is written beside its place, and moved there when it is whole.

Who writes it has it locked. The system gives the lock back if the program dies, so what a killed
one left is told from what another is writing, and taken over.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

MOVES_OPEN_FILES = sys.platform != "win32"

ENDING = ".partial"

LOCKED_BYTE = 1 << 62
"""Behind all data: on Windows a locked byte cannot be read or written."""


@contextmanager
def new_file(file: Path) -> Iterator[BufferedRandom]:
    """Opens a partial file that becomes `file` if nothing fails, and vanishes otherwise.

    Raises:
        BlockingIOError: if another program is writing it.
        OSError: if it cannot be written.
    """
    partial = file.with_name(file.name + ENDING)
    target = None
    try:
        with _locked(partial) as stream:
            try:
                stream.truncate()
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
                target = file
            finally:
                if MOVES_OPEN_FILES:  # as long as it is locked
                    _settle(partial, target)
    finally:
        if not MOVES_OPEN_FILES:
            _settle(partial, target)


def remove_abandoned(folder: Path) -> None:
    """Removes the partial files that no running program writes; those that cannot be, stay."""
    for partial in folder.glob(f"*{ENDING}"):
        with suppress(OSError):
            with _locked(partial):
                if MOVES_OPEN_FILES:
                    _settle(partial, None)
            if not MOVES_OPEN_FILES:
                _settle(partial, None)


def _settle(partial: Path, target: Path | None) -> None:
    if target is None:
        partial.unlink(missing_ok=True)
        return
    try:
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)  # it may be as large as a model
        raise


def _locked(partial: Path) -> BufferedRandom:
    """Opens a file, made if missing, that nobody else has locked, and locks it."""
    while True:
        handle = os.open(partial, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        stream = os.fdopen(handle, "r+b")
        try:
            _lock(handle)
            # Who had it before may have moved or removed it since it was opened here.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), partial.stat()):
                    return stream
        except BaseException:
            stream.close()
            raise
        stream.close()


def _lock(handle: int) -> None:
    try:
        if sys.platform == "win32":
            os.lseek(handle, LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            os.lseek(handle, 0, os.SEEK_SET)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return  # a file system without locks: as if there were one program only
        text = "another program is writing the same file"
        raise BlockingIOError(errno.EAGAIN, text) from error
