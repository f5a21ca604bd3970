"""A run's first passes with low-precision attention are looked at, whatever sampler runs."""

import logging
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ....wan_model.attention import AttentionFn, FirstPasses, Guarded
from ..host import runtime


def run_guarded(
    attend: AttentionFn,
    first_passes: FirstPasses,
    options: dict[str, Any],
    predict: Callable[[], Tensor],
) -> Tensor:
    """Returns predict(), with exact attention if the given one breaks a first pass of a run.

    A run is known by its list of sigmas, which every sampler makes anew.
    """
    if isinstance(attend, Guarded):
        kind = tuple(options.get("cond_or_uncond", ()))
        if first_passes.include(options.get("sample_sigmas"), kind):
            return attend.check(predict, _warn)
    return predict()


def _warn(text: str) -> None:
    runtime.show(runtime.running_node(), text, level=logging.WARNING)
