"""Attention backends at the sizes of Wan2.2: time, rate, error, and why one cannot run.

    python benchmarks/attention.py | python benchmarks/report.py --show -   # a minute on an H100
    python benchmarks/attention.py --only sdpa sage --sizes 480p81

Prints a JSON line per backend and size: ms (median), TFLOP/s (4 L^2 H D, whatever the kernel leaves
out) and the rms error relative to float64 on a slice of random data whose keys have outliers; and
one that says what "auto" chooses. Sparse attention drops what matters little in a video; noise has
no such thing, so that its error here says nothing of its quality.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.lines import emit
from wan_model.attention import Platform, automatic
from wan_model.attention.backend import AttentionFn, Backend, UnavailableError
from wan_model.attention.kernel_timing import (
    HEAD_DIM,
    checked,
    exact,
    milliseconds,
    rms_error,
    sample,
)
from wan_model.attention.registry import BACKENDS
from wan_model.attention.sol import BACKEND as SPARSE

SIZES = {
    "480p81": (32_760, 40),
    "720p81": (75_600, 40),
    "5b-704p121": (27_280, 24),
}
"""Tokens and heads: A14B at 832x480 and 1280x720 with 81 frames, TI2V-5B at 1280x704 with 121."""

ALL = {backend.name: backend for backend in (*BACKENDS, SPARSE)}
SCORES_LIMIT_BYTES = 16 << 30


def bench(name: str, attend: AttentionFn, size: str, repeats: int) -> dict[str, Any]:
    """Returns what is measured of one backend and size; a kernel that fails says why."""
    length, heads = SIZES[size]
    if name == "sdpa_math" and heads * length**2 * 4 > SCORES_LIMIT_BYTES:
        return {"note": "holds all scores at once, too much"}
    q, k, v = sample(length, heads, "cuda")
    try:
        error = rms_error(checked(attend(q, k, v)), exact(q, k, v))
        time = milliseconds(lambda: attend(q, k, v), repeats)
    except (RuntimeError, ValueError, TypeError, AssertionError) as failure:
        return {"note": f"{type(failure).__name__}: {failure}".split("\n")[0]}
    flop = 4 * length**2 * heads * HEAD_DIM
    return {
        "ms": round(time, 3),
        "tflops": round(flop / time / 1e9, 1),
        "rms_error": float(f"{error:.3g}"),
    }


def lines(
    backend: Backend, platform: Platform, sizes: list[str], repeats: int
) -> Iterator[dict[str, Any]]:
    """Yields the measurements of one backend, or the reason why there are none."""
    try:
        attend = backend.function(platform)
    except UnavailableError as error:
        yield {"note": str(error)}
        return
    if platform.kind == "other":
        yield {"note": "runs, but there is no GPU to measure"}
        return
    for size in sizes:
        about = {"version": backend.version(platform), "size": size}
        yield about | bench(backend.name, attend, size, repeats)


@torch.inference_mode()
def main() -> None:
    """Command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--only", nargs="+", choices=ALL, default=list(ALL))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", type=Path, help="what 'auto' measured, to say what it chooses")
    options = parser.parse_args()
    platform = Platform.current()
    for name in options.only:
        for line in lines(ALL[name], platform, options.sizes, options.repeats):
            emit("attention", {"backend": name, **line})
    emit("attention", {"backend": "auto", "note": str(automatic(memory=options.memory))})


if __name__ == "__main__":
    main()
