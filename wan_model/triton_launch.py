"""Launching a Triton kernel, or only compiling it.

Importing this needs Triton.
"""

import threading
from typing import Any

from triton.runtime import driver


class ProcessEndsError(RuntimeError):
    """Nothing is compiled any more."""


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
    """Runs a kernel; of tensors without memory (the meta device) it is only compiled for them.

    Whatever calls kernels thus compiles, on the meta device, what it needs on a GPU, and cannot
    need others there: memory of its own begins at a multiple of 16 bytes, as address 0 does.

    Args:
        kernel: made by `triton.jit`.
        grid: programs.
        args: of the kernel; the first one is a tensor.
        constants: `constexpr` arguments and options.

    Raises:
        ProcessEndsError: instead of compiling only, if the main thread has ended.
    """
    if not args[0].is_meta:
        kernel[grid](*args, **constants)
        return
    if not threading.main_thread().is_alive():
        raise ProcessEndsError
    compiled = kernel.warmup(*args, grid=grid, **constants)
    if compiled is not None:  # an interpreter compiles nothing
        # What hands the arguments over is made by a C compiler, in a tenth of a second.
        active: Any = driver.active
        active.launcher_cls(compiled.src, compiled.metadata)
