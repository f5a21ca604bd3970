"""How long forward passes took here before, so that the next run's time can be told."""

import json
import logging
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..wan_model.whole_file import write_whole
from ._comfy.host import runtime

logger = logging.getLogger(__name__)

FILE = "paces.json"
KEPT = 8
"""Latest runs that are remembered of each model."""
SPREAD = 0.15
"""What equal runs differ by."""


@dataclass(frozen=True)
class Passes:
    """Forward passes of a kind of model on this machine."""

    key: str
    tokens: int
    seconds: float
    """Of one pass."""


def remember(passes: Passes) -> None:
    """Notes a run. A full or read-only disk is no reason to fail."""
    path = runtime.cache_folder() / FILE
    try:
        known = _read(path)
        latest = [*known.get(passes.key, []), [passes.tokens, passes.seconds]]
        known[passes.key] = latest[-KEPT:]
        write_whole(path, json.dumps(known).encode())
    except OSError:
        logger.debug("The pace of this run was not kept.", exc_info=True)


def expected_seconds(key: str, tokens: int) -> tuple[float, float] | None:
    """Returns the least and the most that one pass is expected to take; None if nothing is known.

    From runs of as many tokens, or from the nearest: time grows faster than tokens and slower than
    their square, which is attention's part.
    """
    try:
        runs = _read(runtime.cache_folder() / FILE).get(key, [])
    except OSError:
        return None
    if not runs:
        return None
    nearest = min((run[0] for run in runs), key=lambda known: abs(known - tokens))
    usual = statistics.median(run[1] for run in runs if run[0] == nearest)
    ratio = tokens / nearest
    bounds = sorted((usual * ratio, usual * ratio**2))
    return bounds[0] * (1 - SPREAD), bounds[1] * (1 + SPREAD)


def _read(path: Path) -> dict[str, list[Any]]:
    """Returns the runs that are noted in a file, which somebody may have changed.

    Raises:
        OSError: if it is there and cannot be read, so that nobody writes over it.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    kinds = found.items() if isinstance(found, dict) else ()
    return {k: [run for run in runs if _is_run(run)] for k, runs in kinds if isinstance(runs, list)}


def _is_run(run: Any) -> bool:
    match run:
        case [int(tokens), int(seconds) | float(seconds)]:
            return tokens > 0 and 0 < seconds < math.inf
        case _:
            return False
