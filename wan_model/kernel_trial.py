"""Faster kernels are trusted after a trial: they may be missing, or wrong on this device."""

import logging
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)


def triton_kernels_if_right(
    make: Callable[[], T], plain: T, error: Callable[[T], float], tolerance: float, what: str
) -> T:
    """Returns what `make` makes if it works and computes the right numbers, otherwise `plain`.

    Args:
        make: imports and makes the faster kernels; may fail in any way.
        plain: does the same in PyTorch.
        error: runs kernels on a small example and compares; may fail, too.
        tolerance: most error of a trial.
        what: is done without them then, for the log.
    """
    try:
        fast = make()
        found = error(fast)
    except Exception:
        # Triton can be missing, or its C compiler, or Python's headers: each fails in its own way.
        log.debug("%s: done without Triton", what, exc_info=True)
        return plain
    if found < tolerance:
        return fast
    log.warning("%s: done without Triton, which computes wrong numbers (error %.2g)", what, found)
    return plain
