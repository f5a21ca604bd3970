"""Writes `schedule_cases.json`: schedules and expert splits that Python and JavaScript must share.

Run from the repository root after a deliberate change of `wan_model/sampling`:

    python -m tests.data.make_schedule_cases

"sigmas" are fp32 numbers, "timesteps" the truncated ones of the model calls; both, like "high" and
"low", belong to the list after denoise and the step range were applied.
"""

import json
from itertools import product, starmap
from pathlib import Path
from typing import Any, NamedTuple

from wan_model.sampling import (
    count_high_noise_steps,
    make_sigmas,
    official_timestep,
    schedule_for_denoise,
    trim_steps,
)

PATH = Path(__file__).with_name("schedule_cases.json")

LAST = 10_000
"""end_at_step of a run to the end."""


class Run(NamedTuple):
    """Settings of one run, named like the inputs of the sampler node."""

    solver: str
    steps: int
    shift: float
    boundary: float
    denoise: float = 1.0
    start_at_step: int = 0
    end_at_step: int = LAST
    force_full_denoise: bool = True


FULL_RUNS = [
    *starmap(Run, product(("unipc", "dpm++", "euler"), (4, 20), (5.0, 12.0), (0.875, 0.9))),
    Run("unipc", 40, 12.0, 0.875),
    Run("unipc", 40, 5.0, 0.9),
    Run("unipc", 50, 5.0, 0.875),
    Run("unipc", 40, 3.0, 0.9),
    Run("dpm++", 40, 3.0, 0.9),  # timestep 900 exactly: high
    Run("dpm++", 30, 8.0, 0.875),  # timestep 875 exactly
    Run("euler", 12, 5.0, 0.875),
    Run("dpm++", 26, 17.0, 0.9),  # float64 falls one digit short of 900: low
    Run("dpm++", 60, 5.0, 0.875),  # and of 875
    Run("dpm++", 10, 1.0, 0.875),
    Run("unipc", 9, 1.0, 0.555),
    Run("unipc", 1, 5.0, 0.9),
    Run("euler", 1, 1.0, 0.875),
    Run("unipc", 120, 12.0, 0.875),  # first timesteps coincide
    Run("dpm++", 8, 3.0, 0.1 + 0.2),  # 0.30000000000000004 means timestep 300
    Run("euler", 8, 0.5, 0.5),
    Run("unipc", 6, 16.0, 0.0),
    Run("dpm++", 6, 16.0, 1.0),
]

PARTIAL_RUNS = [
    Run("unipc", 20, 8.0, 0.875, 0.5, 0, LAST, True),
    Run("unipc", 20, 5.0, 0.9, 0.7, 0, LAST, True),
    Run("dpm++", 7, 5.0, 0.9, 0.7, 0, LAST, True),
    Run("euler", 9, 12.0, 0.875, 0.9, 0, LAST, True),
    Run("euler", 4, 5.0, 0.9, 0.99995, 0, LAST, True),
    Run("euler", 4, 5.0, 0.9, 0.9999, 0, LAST, True),
    Run("dpm++", 3, 8.0, 0.9, 0.05, 0, LAST, True),
    Run("unipc", 1, 5.0, 0.9, 0.3, 0, LAST, True),
    Run("unipc", 20, 5.0, 0.9, 0.0, 0, LAST, True),
    Run("unipc", 20, 8.0, 0.875, 1.0, 0, 11, False),
    Run("unipc", 20, 8.0, 0.875, 1.0, 11, LAST, True),
    Run("dpm++", 20, 8.0, 0.875, 1.0, 0, 11, True),
    Run("dpm++", 20, 8.0, 0.875, 1.0, 5, 15, False),
    Run("euler", 20, 5.0, 0.9, 1.0, 5, 15, True),
    Run("euler", 4, 5.0, 0.9, 1.0, 2, LAST, False),
    Run("euler", 4, 5.0, 0.9, 1.0, 0, 2, False),
    Run("euler", 4, 5.0, 0.9, 1.0, 3, 4, False),
    Run("euler", 4, 5.0, 0.9, 1.0, 4, LAST, True),
    Run("euler", 4, 5.0, 0.9, 1.0, 3, 3, True),
    Run("euler", 4, 5.0, 0.9, 1.0, 3, 2, True),
    Run("euler", 4, 5.0, 0.9, 1.0, 0, 0, True),
    Run("unipc", 12, 5.0, 0.9, 0.6, 2, 9, False),
    Run("dpm++", 12, 12.0, 0.875, 0.8, 3, 10, True),
    Run("unipc", 20, 5.0, 0.9, 0.0, 2, 8, True),
]


def make_case(run: Run) -> dict[str, Any]:
    """Returns the settings of one run and what follows from them."""
    full = schedule_for_denoise(
        lambda n: make_sigmas(run.solver, n, run.shift), run.steps, run.denoise
    )
    sigmas = trim_steps(full, run.start_at_step, run.end_at_step, run.force_full_denoise)
    timesteps = [official_timestep(sigma) for sigma in sigmas[:-1].tolist()]
    high = count_high_noise_steps(sigmas, run.boundary)
    return {
        **run._asdict(),
        "sigmas": sigmas.tolist(),
        "timesteps": timesteps,
        "high": high,
        "low": len(timesteps) - high,
    }


def make_text() -> str:
    """Returns the file's text: a JSON list, one case per line."""
    cases = [make_case(run) for run in (*FULL_RUNS, *PARTIAL_RUNS)]
    return "[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n"


if __name__ == "__main__":
    PATH.write_text(make_text(), encoding="utf-8", newline="\n")
