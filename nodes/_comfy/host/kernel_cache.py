"""Where compiled kernels are kept: in ComfyUI's user folder, which outlives a reboot or container.

Triton's own place is the home folder, inductor's the system's temporary one, and inductor moves
Triton's when it first compiles. Both read environment variables, so these are set while code of
this pack runs, and are as before for everybody else: but for those moments, once on a machine, in
which a thread of ours compiles beside them.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .runtime import cache_folder

FOLDERS = {"TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
"""By environment variable: folder in this pack's own."""

GIVEN = frozenset(name for name in FOLDERS if name in os.environ)
"""What a person had chosen when ComfyUI started. It stays."""


class _Places:
    """The variables while somebody's code runs: the first one in sets them, the last puts back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: dict[str, str | None] = {}

    def enter(self) -> None:
        with self._lock:
            if self._inside == 0:
                names = [name for name in FOLDERS if name not in GIVEN]
                folder = cache_folder()
                if not os.access(folder if folder.exists() else folder.parent, os.W_OK):
                    names = []
                self._before = {name: os.environ.get(name) for name in names}
                os.environ.update({n: str(folder / "kernels" / FOLDERS[n]) for n in names})
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside:
                return
            for name in self._before:
                os.environ.pop(name, None)
            before = self._before.items()
            os.environ.update({name: value for name, value in before if value is not None})


_PLACES = _Places()


@contextmanager
def kernels_kept() -> Iterator[None]:
    """Has kernels that are compiled meanwhile kept in, and found in, ComfyUI's user folder.

    Nothing changes if that cannot be written to. Threads of several GPUs may be inside at once.
    """
    _PLACES.enter()
    try:
        yield
    finally:
        _PLACES.leave()
