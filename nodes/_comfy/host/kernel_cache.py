"""Where compiled kernels are kept: in ComfyUI's user folder, which outlives a reboot or container.

Triton's own place is the home folder, inductor's the system's temporary one, and inductor moves
Triton's when it first compiles. Both read environment variables, so these are set while code of
this pack runs, and are as before for everybody else.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from .runtime import cache_folder

FOLDERS = {"TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
"""By environment variable: folder in this pack's own."""

GIVEN = frozenset(name for name in FOLDERS if name in os.environ)
"""What a person had chosen when ComfyUI started. It stays."""


@contextmanager
def kernels_kept() -> Iterator[None]:
    """Has kernels that are compiled meanwhile kept in, and found in, ComfyUI's user folder.

    Nothing changes if that cannot be written to.
    """
    folder = cache_folder()
    names = [name for name in FOLDERS if name not in GIVEN]
    if not os.access(folder if folder.exists() else folder.parent, os.W_OK):
        names = []
    before = {name: os.environ.get(name) for name in names}
    os.environ.update({name: str(folder / "kernels" / FOLDERS[name]) for name in names})
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update({name: value for name, value in before.items() if value is not None})
