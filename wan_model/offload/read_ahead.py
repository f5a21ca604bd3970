"""Asks the system to read weight files before they are needed, while something else computes."""

import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

log = logging.getLogger(__name__)

CHUNK_BYTES = 16 << 20


class ReadAhead:
    """Has files read into the system's file cache by a thread of its own, in the given order.

    Nothing is copied, and what is in the cache already costs next to nothing. Where the system
    takes no such advice (Windows, macOS) nothing happens. It ends when nobody holds it any more.
    """

    def __init__(
        self,
        files: Sequence[Path],
        room_bytes: int,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        """Begins.

        Args:
            files: those that are needed first come first.
            room_bytes: of RAM that the cache may grow by; no more is read, since it would push
                out what was read before.
            interrupted: asked before each chunk; ends it.
        """
        self._stopped = stopped = threading.Event()
        weakref.finalize(self, stopped.set)
        self._thread: threading.Thread | None = None
        if hasattr(os, "posix_fadvise") and room_bytes > 0:
            # The thread does not hold this object, or nobody could let go of it.
            arguments = tuple(files), room_bytes, lambda: stopped.is_set() or interrupted()
            self._thread = threading.Thread(
                target=_read, args=arguments, name="wan-read-ahead", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """Ends it before its next chunk, without waiting."""
        self._stopped.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Waits for the end; returns whether it came."""
        if self._thread is None:
            return True
        self._thread.join(seconds)
        return not self._thread.is_alive()


def _read(files: tuple[Path, ...], room_bytes: int, ended: Callable[[], bool]) -> None:
    for file in files:
        try:
            with file.open("rb") as opened:
                room_bytes -= _advise(opened.fileno(), room_bytes, ended)
        except OSError as error:
            # Whoever needs the file says what is wrong with it.
            log.debug("%s is not read ahead: %s", file, error)


def _advise(descriptor: int, room_bytes: int, ended: Callable[[], bool]) -> int:
    """Has a file read as far as there is room; returns the bytes asked for."""
    end = min(os.fstat(descriptor).st_size, room_bytes)
    for start in range(0, end, CHUNK_BYTES):
        if ended():
            return end
        size = min(CHUNK_BYTES, end - start)
        os.posix_fadvise(descriptor, start, size, os.POSIX_FADV_WILLNEED)
    return max(0, end)
