"""What "auto" means: the fastest backend whose error on this GPU is within a bound.

Deciding is a pure function of measurements; they are remembered in a small JSON file, by GPU and
versions, so that a machine measures once.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..whole_file import write_whole

log = logging.getLogger(__name__)

MAX_ERROR = 5e-3
"""Greatest rms error, relative to exact attention, that "auto" accepts.

It is what a whole forward pass in bf16 may differ from fp32 by (tests/parity). 16 bit kernels have
2.3e-3 on the data of `measure`, of which 1.5e-3 is the rounding of the output alone; 8 bit ones
have 1.6e-2 or more (on an H200: SageAttention 1 1.6e-2, comfy-kitchen's int8 1.9e-2,
FlashAttention-3 in fp8 5.2e-2).
"""

FAST_MAX_ERROR = 6e-2
"""The same of what "auto_fast" accepts after the first steps: every 8-bit kernel that we know.

On data without structure, as that of `measure`, errors of attention are largest. A whole forward
pass with the coarsest of them, FlashAttention-3 in fp8, is off by 2.9e-2 where fp8 matmuls alone
make it 2.8e-2 (benchmarks/RESULTS.md).
"""

MIN_GAIN = 1.03
"""How much faster than sdpa a backend must be to be chosen: differences below are noise."""

DEFAULT = "sdpa"


@dataclass(frozen=True)
class Measurement:
    """How one backend did on this GPU."""

    name: str
    milliseconds: float = 0.0
    error: float = 0.0
    """Rms of the difference to exact attention, relative to the rms of the latter."""
    problem: str | None = None
    """Why it failed; the numbers mean nothing then."""


@dataclass(frozen=True)
class Choice:
    """What "auto" chooses, and why."""

    name: str
    why: str

    def __str__(self) -> str:
        """For people."""
        return f"chooses {self.name}: {self.why}"


def choose(measurements: Sequence[Measurement], max_error: float = MAX_ERROR) -> Choice:
    """Returns the fastest backend with an error of at most `max_error`, sdpa if about as fast."""
    exact = {m.name: m for m in measurements if m.problem is None and m.error <= max_error}
    if not exact:
        return Choice(DEFAULT, f"nothing measured has an error of at most {max_error:g}")
    best = min(exact.values(), key=lambda m: m.milliseconds)
    default = exact.get(DEFAULT)
    if default and default.milliseconds < MIN_GAIN * best.milliseconds:
        best = default
    why = f"the fastest here, {best.milliseconds:.1f} ms with an error of {best.error:.1e}"
    if default and best is not default:
        why += f", where sdpa takes {default.milliseconds:.1f} ms"
    return Choice(best.name, why)


def recall(path: Path, key: str) -> list[Measurement] | None:
    """Returns what was measured under `key`, None if nothing was or the file is damaged."""
    try:
        entries = _read(path).get(key)
        return None if entries is None else [_measurement(entry) for entry in entries]
    except (OSError, TypeError, ValueError, KeyError) as error:
        log.warning("Ignoring the attention measurements in %s: %s", path, error)
        return None


def remember(path: Path, key: str, measurements: Sequence[Measurement]) -> None:
    """Writes measurements under `key`; a file that cannot be written costs a message only."""
    try:
        content = {**_read(path), key: [asdict(m) for m in measurements]}
        write_whole(path, json.dumps(content, indent=1).encode())
    except OSError as error:
        log.warning("Could not remember the attention measurements: %s", error)


def _read(path: Path) -> dict[str, list]:
    """Returns what is in the file, nothing if it is damaged.

    Raises:
        OSError: if it is there and cannot be read, so that nobody writes over it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        log.warning("Ignoring the attention measurements in %s: %s", path, error)
        return {}
    return content if isinstance(content, dict) else {}


def _measurement(entry: dict) -> Measurement:
    problem = entry["problem"]
    return Measurement(
        name=str(entry["name"]),
        milliseconds=float(entry["milliseconds"]),
        error=float(entry["error"]),
        problem=None if problem is None else str(problem),
    )
