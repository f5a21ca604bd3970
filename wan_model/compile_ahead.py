"""Kernels compiled by a thread before they are needed, while files are read and text is encoded.

Triton compiles in threads where it offers to do so itself (`AsyncCompileMode`, from 3.5 on): its
compiler lets other threads run, and files of its cache appear whole. On Linux, that is: on Windows
a file that somebody reads cannot be replaced.
"""

import logging
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

log = logging.getLogger(__name__)

LONGEST_WAIT = 20.0
"""Seconds. A compiler that takes longer hangs: whoever waits then compiles for itself."""


class CompiledAhead:
    """What a thread compiles. It never raises: what it leaves out is compiled when it is needed."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    @classmethod
    def begun(
        cls,
        compile_all: Callable[[], None],
        device: torch.device,
        kept: Callable[[], AbstractContextManager[object]],
    ) -> "CompiledAhead":
        """Begins, if that can be done here.

        Args:
            compile_all: compiles by `triton_launch.launch` for the current GPU, without using it.
            device: the current one, if it is a GPU.
            kept: entered meanwhile by the thread.
        """
        ahead = cls()
        if _can_compile_ahead(device):
            # Not a daemon: one that ends within LLVM would end the process with an error. It ends
            # after the kernel it is at, since `launch` looks whether the main thread lives.
            arguments = compile_all, device, kept
            thread = threading.Thread(target=_compile, args=arguments, name="wan-compile-ahead")
            try:
                thread.start()
            except RuntimeError:  # no thread to be had
                log.debug("Nothing is compiled ahead", exc_info=True)
            else:
                ahead._thread = thread
        return ahead

    @property
    def is_running(self) -> bool:
        """Whether something is being compiled."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> None:
        """Waits for what is being compiled: compiling it twice would take longer."""
        if self._thread is not None:
            self._thread.join(LONGEST_WAIT)
            self._thread = None

    def __reduce__(self) -> tuple[type["CompiledAhead"], tuple[()]]:
        """A copy of a model has nothing to wait for."""
        return CompiledAhead, ()


def _can_compile_ahead(device: torch.device) -> bool:
    if sys.platform != "linux" or device.type != "cuda" or torch.version.hip is not None:
        return False
    if not torch.cuda.is_initialized():
        return False
    if device.index != torch.cuda.current_device():
        return False  # Triton runs on the current one only
    try:
        # What the compiler imports at first use, here: two threads that import what imports each
        # other may find half of it.
        import triton.compiler.code_generator  # noqa: F401
        from triton import AsyncCompileMode  # noqa: F401 - whether there is one
    except Exception:
        # As for any kernel: Triton can be missing or broken in ways of its own.
        log.debug("Nothing is compiled ahead", exc_info=True)
        return False
    return True


def _compile(
    compile_all: Callable[[], None],
    device: torch.device,
    kept: Callable[[], AbstractContextManager[object]],
) -> None:
    try:
        with torch.cuda.device(device), kept():
            compile_all()
    except Exception:
        # Whoever needs the kernels finds out what is wrong, and does without them.
        log.debug("Not everything was compiled ahead", exc_info=True)
