"""Attention backends at the sizes of Wan2.2: time, rate, error, and why one cannot run.

    python benchmarks/attention.py                       # about a minute on an H100
    python benchmarks/attention.py --only sdpa sage --sizes 480p81

Prints a Markdown table, a row per backend and size: ms (median), TFLOP/s (4 L^2 H D, whatever the
kernel leaves out) and the rms error relative to float64 on a slice of random data whose keys have
outliers. Sparse attention drops what matters little in a video; noise has no such thing, so that
its error here says nothing of its quality.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from wan_model.attention import Platform, explain
from wan_model.attention.backend import AttentionFn, UnavailableError
from wan_model.attention.measure import HEAD_DIM, checked, exact, milliseconds, rms_error, sample
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


def row(*cells: object) -> None:
    """Prints a row of the table at once: a run takes a while."""
    sys.stdout.write("| " + " | ".join(map(str, cells)) + " |\n")
    sys.stdout.flush()


def bench(label: str, attend: AttentionFn, size: str, repeats: int) -> None:
    """Prints the row of one backend and size; a kernel that fails is a row as well."""
    length, heads = SIZES[size]
    if label == "sdpa_math" and heads * length**2 * 4 > SCORES_LIMIT_BYTES:
        return row(label, size, "", "", "", "holds all scores at once, too much")
    q, k, v = sample(length, heads, "cuda")
    try:
        error = rms_error(checked(attend(q, k, v)), exact(q, k, v))
        time = milliseconds(lambda: attend(q, k, v), repeats)
    except (RuntimeError, ValueError, TypeError, AssertionError) as failure:
        return row(label, size, "", "", "", f"{type(failure).__name__}: {failure}".split("\n")[0])
    flop = 4 * length**2 * heads * HEAD_DIM
    return row(label, size, f"{time:.2f}", f"{flop / time / 1e9:.0f}", f"{error:.1e}", "")


@torch.inference_mode()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=ALL, default=list(ALL))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", type=Path, help="what 'auto' measured, to say what it chooses")
    options = parser.parse_args()
    platform = Platform.current()
    sys.stdout.write(f"{platform.gpu or 'No GPU'}, torch {torch.__version__}\n\n")
    row("backend", "size", "ms", "TFLOP/s", "rms error", "note")
    row(*["---"] * 6)
    for name in options.only:
        try:
            attend = ALL[name].function(platform)
        except UnavailableError as error:
            row(name, "", "", "", "", error)
            continue
        if platform.kind == "other":
            row(name, "", "", "", "", "runs, but there is no GPU to measure")
            continue
        label = f"{name} {ALL[name].version(platform)}".rstrip()
        for size in options.sizes:
            bench(label, attend, size, options.repeats)
    auto = explain(memory=options.memory)[0]
    sys.stdout.write(f"\nauto {auto.status}\n")


if __name__ == "__main__":
    main()
