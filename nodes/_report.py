"""Errors as the user sees them."""

import inspect
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from ..wan_model.errors import MemoryLimitError, RelativeError, WanError
from ..wan_model.host_memory import is_full
from ..wan_model.unreadable import is_shortage, lacks_threads

LIMITS_ADVICE = (
    "Limits are inputs of the 'Wan 2.2 VRAM & Block Swap' node: 0 leaves the VRAM budget open, -1 "
    "any other."
)

RELATIVES_ADVICE = (
    "Or load this one with ComfyUI's 'Load Diffusion Model': 'Wan 2.2 Sampler' takes both its "
    "experts."
)

FULL_MEMORY = (
    "The computer's memory is full. Got '{}', need more memory from the system. Close other "
    "programs, or choose a smaller model or a smaller video."
)

NO_HANDLE = (
    "ComfyUI can open no more files at the moment. Got '{}', need a free file handle. Close other "
    "programs, or start ComfyUI with a higher limit "
    "(`ulimit -n` on Linux and macOS)."
)

NO_THREAD = (
    "ComfyUI can start no more threads at the moment. Got '{}', need free memory and a free "
    "process. Close other programs, or start ComfyUI with a higher limit "
    "(`ulimit -u` on Linux and macOS)."
)

MISSING = (
    "Some inputs of this node are missing. Got nothing for {}, need a value for each. Add them to "
    "the workflow, or export it from the editor, which writes all of them."
)
"""Where a node with inputs of any name follows, ComfyUI does not look at what is before it."""

NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)

Execute = TypeVar("Execute", bound=Callable[..., Any])


class WanDuetError(ValueError):
    """What the graph editor shows: the library's message, and which node to turn to."""

    __module__ = "wanduet"  # ComfyUI shows it beside the name; else it is the pack's whole path


def reports_errors(execute: Execute) -> Execute:
    """Turns the library's errors, and missing inputs, into one that ComfyUI shows as it is.

    Beside them, what PyTorch, safetensors and Python raise when the computer's memory is full, or
    when no more files can be opened or threads started. Others pass through. The library knows no
    nodes, so where its advice concerns one, that is named here.
    """
    every = inspect.signature(execute).parameters.values()
    required = [each.name for each in every if each.default is each.empty and each.kind in NAMED]

    @wraps(execute)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        missing = [name for name in required[len(args) :] if name not in kwargs]
        if missing:
            *first, last = missing
            names = f"{', '.join(first)} and {last}" if first else last
            raise WanDuetError(MISSING.format(names))
        try:
            return execute(*args, **kwargs)
        except WanError as error:
            # ComfyUI keeps errors for a while, and they what their functions had loaded.
            traceback.clear_frames(error.__traceback__)
            raise WanDuetError(_for_the_editor(error)) from error
        except (MemoryError, RuntimeError, OSError) as error:
            if not is_shortage(error):
                raise
            traceback.clear_frames(error.__traceback__)
            # Without a number and a path in quotation marks, which an OSError adds to its reason.
            reason = getattr(error, "strerror", None) or str(error)
            got = reason.partition("\n")[0] or type(error).__name__
            raise WanDuetError(_shortage(error).format(got)) from error

    return wrapper  # pyright: ignore[reportReturnType]


def _shortage(error: Exception) -> str:
    if lacks_threads(error):
        return NO_THREAD
    return FULL_MEMORY if is_full(error) else NO_HANDLE


def _for_the_editor(error: WanError) -> str:
    if isinstance(error, MemoryLimitError) and error.limits:
        return f"{error} {LIMITS_ADVICE}"
    if isinstance(error, RelativeError):
        return f"{error} {RELATIVES_ADVICE}"
    return str(error)
