"""Why a file cannot be read: for want of memory or of file handles, or for a fault of its own."""

import errno
import os

from .errors import CheckpointError, MemoryLimitError, ShortageError, UnreadableError, WanError
from .host_memory import is_full

NO_HANDLES = (errno.EMFILE, errno.ENFILE)
"""This program has as many files open as it may, or the whole system has."""

NO_THREAD = "can't start new thread"
"""Python's words, which have no type or number of their own."""


def unreadable(name: str, error: Exception, advice: str) -> WanError:
    """Returns the error for a file that cannot be read.

    Args:
        name: of the file.
        error: what the system, PyTorch or Python raised.
        advice: what to do if it is neither for want of memory nor of file handles, whose messages
            have advice of their own.

    Returns:
        A `MemoryLimitError` or `ShortageError` for those, an `UnreadableError` for what else the
        system says, otherwise a `CheckpointError`.
    """
    if is_full(error):
        return MemoryLimitError(
            f"The computer's memory is full while reading {name}. Got no more of it from the "
            "system, need room to read it. Close other programs, then try again."
        )
    number = getattr(error, "errno", None)
    if number in NO_HANDLES:
        return ShortageError(
            f"{name} cannot be opened at the moment. Got '{os.strerror(number)}', need a free file "
            "handle. Close other programs, or start this one with a higher limit (`ulimit -n` on "
            "Linux and macOS)."
        )
    reason = getattr(error, "strerror", None) or error
    kind = UnreadableError if isinstance(error, OSError) else CheckpointError
    return kind(f"{name} cannot be read. Got {reason}, need a readable file. {advice}")


def is_shortage(error: BaseException) -> bool:
    """Whether it is for want of memory, threads or file handles, or of a file not read for now."""
    if isinstance(error, ShortageError) or is_full(error) or lacks_threads(error):
        return True
    return isinstance(error, OSError) and error.errno in NO_HANDLES


def lacks_threads(error: BaseException) -> bool:
    """Whether the system gives no more threads, for want of memory or by its limit of processes."""
    return isinstance(error, RuntimeError) and NO_THREAD in str(error)
