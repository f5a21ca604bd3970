"""Errors and choices as the user sees them."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from ..wan_model.errors import WanError

Execute = TypeVar("Execute", bound=Callable[..., Any])


class WanDuetError(ValueError):
    """What the graph editor shows: the library's message, without its module path."""


def reports_errors(execute: Execute) -> Execute:
    """Turns the library's errors into one that ComfyUI shows as it is. Others pass through."""

    @wraps(execute)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return execute(*args, **kwargs)
        except WanError as error:
            raise WanDuetError(str(error)) from error

    return wrapper  # pyright: ignore[reportReturnType]
