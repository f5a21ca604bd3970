"""Runs a Python program in this process: `python guard.py PROGRAM [arguments]`.

The process ends when whoever started it does, however that happens: it holds the other end of
this one's standard input, which the system closes then. So no ComfyUI keeps a GPU for nobody.
"""

import ctypes
import os
import runpy
import signal
import sys
import threading

PR_SET_PDEATHSIG = 1
"""Of Linux's prctl.h."""


def main() -> None:
    """Replaces this program by the one that is named."""
    _end_with_parent()
    lifeline = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    del sys.argv[0]
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")


def _end_with_parent() -> None:
    """Has Linux end this process with its starter, also after it has replaced its program.

    A pack that restarts ComfyUI does so in the same process, and the lifeline is gone.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_with(lifeline: int) -> None:
    while os.read(lifeline, 1024):
        pass
    os._exit(1)  # at once, whatever the other threads do


if __name__ == "__main__":
    main()
