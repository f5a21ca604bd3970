"""A long day of a server: hundreds of prompts of eight workflows, and what stays of them.

    COMFYUI_PATH=... python benchmarks/soak.py --prompts 1000 --plot benchmarks/plots/soak.svg
    COMFYUI_PATH=... python benchmarks/soak.py --seconds 380 --seed 2

Prompts come in random order with other seeds, texts and LoRA strengths, are interrupted, fail, are
refused, come from two clients at once or from one that goes away, and every tenth is followed by
/free. A second server, run beside the first, gets as many prompts of core's nodes alone: what grows
there is ComfyUI's own. Known seeds must give what they gave when the server was fresh. Runs on toy
models, on the CPU unless WANDUET_TEST_GPU is set.

Prints a JSON line per server with slopes per prompt and their standard errors, over what is left
after /free, from the 50th prompt on; --samples writes all of them. `>>
benchmarks/results/soak.jsonl` keeps the lines for report.py.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import linear_regression, mean

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.lines import emit
from benchmarks.soak_plot import draw
from benchmarks.toy_server import toy_server
from tests.comfy.long_run import REST, WORKFLOWS, LongRun, Sample, known_results

OURS, CORE = "wan-duet", "core"
WORKFLOWS_OF = {OURS: WORKFLOWS, CORE: {"core": WORKFLOWS["core"]}}
SETTLED = 50
"""Prompts after which nothing may grow."""
SLICE = 10
"""Prompts to one server before the other's turn."""
ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""glibc keeps up to 64 MiB for each thread that there was, which hides what grows by little."""
QUANTITIES: dict[str, Callable[[Sample], float]] = {
    "heap_kib": lambda sample: sample.heap_kib,
    "rss_kib": lambda sample: sample.rss_kib,
    "files": lambda sample: sample.files,
    "threads": lambda sample: sample.threads,
    "disk_bytes": lambda sample: sample.disk_bytes,
}


def slope(samples: Sequence[Sample], value: Callable[[Sample], float]) -> list[float] | None:
    """Returns growth per prompt by least squares, and its standard error; None if that is vain."""
    settled = [s for s in samples if s.event == REST and s.prompts >= SETTLED]
    n, x, y = len(settled), [s.prompts for s in settled], [value(s) for s in settled]
    if n < 4:
        return None
    found = linear_regression(x, y)
    squares = sum((b - found.slope * a - found.intercept) ** 2 for a, b in zip(x, y, strict=True))
    spread = sum((a - mean(x)) ** 2 for a in x)
    return [round(found.slope, 3), round((squares / (n - 2) / spread) ** 0.5, 3)]


def soak(prompts: int, seconds: float, seed: int) -> dict[str, LongRun]:
    """Runs both servers in turn, so that whatever the machine does happens to both."""
    until = time.monotonic() + seconds
    with toy_server(ONE_ARENA) as ours, toy_server(ONE_ARENA) as core:
        expected = known_results(ours, WORKFLOWS)
        runs = {
            name: LongRun(server, WORKFLOWS_OF[name], expected, seed)
            for name, server in ((OURS, ours), (CORE, core))
        }
        for _ in range(-(-prompts // SLICE)):
            for run in runs.values():
                run.run(SLICE, until)
            if time.monotonic() > until:
                break
        for run in runs.values():
            run.compare_all()
    return runs


def main() -> None:
    """Command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--prompts", type=int, default=1000, help="to each server")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin none after that")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=Path, help="JSON file for all samples")
    parser.add_argument("--plot", type=Path, help="SVG file")
    options = parser.parse_args()
    runs = soak(options.prompts, options.seconds, options.seed)
    for name, run in runs.items():
        slopes = {f"{key}_a_prompt": slope(run.samples, value) for key, value in QUANTITIES.items()}
        rests = [sample for sample in run.samples if sample.event == REST]
        last = {key: getattr(rests[-1], key) for key in QUANTITIES} if rests else {}
        about = {"server": name, "prompts": run.sent, "events": run.counts, "seed": options.seed}
        emit("soak", {**about, **slopes, **last, "differences": run.differences})
    if options.samples:
        lists = {name: [asdict(each) for each in run.samples] for name, run in runs.items()}
        options.samples.write_text(json.dumps(lists), encoding="utf-8")
    if options.plot:
        drawn = {name: [s for s in run.samples if s.event == REST] for name, run in runs.items()}
        options.plot.write_text(draw(drawn, QUANTITIES), encoding="utf-8")
    sys.exit(1 if any(run.differences for run in runs.values()) else 0)


if __name__ == "__main__":
    main()
