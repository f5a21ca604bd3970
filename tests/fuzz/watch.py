"""What a piece of code costs and touches: CPU time, memory, files."""

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WRITES = {
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.truncate",
    "os.chmod",
    "os.link",
    "os.symlink",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "socket.connect",
    "pickle.find_class",
}
"""Events of Python's audit that reading a file has no use for."""

FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

OWN = (sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]), "/proc", "/sys", "/dev/null")
OWN += (sys.pycache_prefix,) if sys.pycache_prefix else ()
"""Where Python, its packages and ours lie, compiled too, which may be read at any time."""


@dataclass
class Watched:
    """What was seen."""

    cpu_s: float = 0.0
    peak_bytes: int = 0
    """More than before, at the worst moment."""
    outside: list[str] = field(default_factory=list)
    """What was written, or read outside of the folder."""


class _Auditor:
    """Python's audit hooks stay for ever, so there is one."""

    folder: str | None = None
    seen: Watched | None = None
    installed = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.seen is None or self.folder is None:
            return
        if event in WRITES:
            self.seen.outside.append(f"{event} {arguments[0]!r}"[:200])
        elif event == "open" and isinstance(arguments[0], (str, bytes)):
            path, mode, flags = os.fsdecode(arguments[0]), arguments[1] or "", arguments[2] or 0
            written = flags & FLAGS or any(letter in mode for letter in "wax+")
            known = path.startswith((self.folder, *OWN))
            if written or not known:
                self.seen.outside.append(f"open {path} {mode}"[:200])


AUDITOR = _Auditor()


@contextmanager
def watched(folder: Path) -> Iterator[Watched]:
    """Watches what the block does, of which only this folder is to be read, and nothing written.

    Python keeps no compiled modules meanwhile, which it would write when one is first needed.
    """
    if not AUDITOR.installed:
        sys.addaudithook(AUDITOR)
        AUDITOR.installed = True
    seen = Watched()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, started = _resident("VmRSS"), time.process_time()
    AUDITOR.folder, AUDITOR.seen = str(folder), seen
    compiled, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield seen
    finally:
        AUDITOR.seen, sys.dont_write_bytecode = None, compiled
        seen.cpu_s = time.process_time() - started
        seen.peak_bytes = _resident("VmHWM") - before


def _resident(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, "Linux says so"
    return int(found[1]) << 10
