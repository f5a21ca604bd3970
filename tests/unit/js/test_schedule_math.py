"""js/schedule/math.js gives the numbers of wan_model/sampling: the shared cases, bit by bit.

Runs in Node.js, or in Chromium where there is none.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.browser.chromium import QUIET, find_chromium

ROOT = Path(__file__).parents[3]
MATH = ROOT / "js" / "schedule" / "math.js"
CASES: list[dict[str, Any]] = json.loads(
    (ROOT / "tests" / "data" / "schedule_cases.json").read_text(encoding="utf-8")
)

RUN_CASE = """
function runCase(c) {
  const make = (steps) => makeSigmas(c.solver, steps, c.shift);
  const plan = planRun(scheduleForDenoise(make, c.steps, c.denoise), {
    startAtStep: c.start_at_step,
    endAtStep: c.end_at_step,
    forceFullDenoise: c.force_full_denoise,
    boundary: c.boundary,
  });
  return { sigmas: plan.sigmas, timesteps: plan.timesteps, high: plan.high, low: plan.low };
}
"""


def run_in_node(node: str, source: str) -> list[dict[str, Any]]:
    script = f"{source}\nconsole.log(JSON.stringify({json.dumps(CASES)}.map(runCase)));"
    command = [node, "--input-type=module", "-"]
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def run_in_chromium(source: str, folder: Path) -> list[dict[str, Any]]:
    executable = find_chromium()
    if executable is None:
        pytest.skip("Neither Node.js nor Chromium. Install one of them.")
    show = f"document.body.textContent = JSON.stringify({json.dumps(CASES)}.map(runCase));"
    page = folder / "page.html"
    page.write_text(f'<body><script type="module">{source}{show}</script>', encoding="utf-8")
    command = [executable, *QUIET, "--headless", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout[done.stdout.index("[") : done.stdout.rindex("]") + 1])


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    source = MATH.read_text(encoding="utf-8") + RUN_CASE
    node = shutil.which("node")
    if node:
        return run_in_node(node, source)
    return run_in_chromium(source, tmp_path_factory.mktemp("page"))


@pytest.mark.parametrize("index", range(len(CASES)))
def test_plan_equals_pythons(index: int, answers: list[dict[str, Any]]):
    expected = {name: CASES[index][name] for name in ("sigmas", "timesteps", "high", "low")}

    assert answers[index] == expected
