"""The expert switch: counts, equality at the boundary, and what the plan says of itself."""

import re
from dataclasses import FrozenInstanceError

import pytest
import torch

from wan_model.errors import SettingsError
from wan_model.sampling import (
    ExpertPlan,
    count_high_noise_steps,
    expert_split,
    is_high_noise,
    make_sigmas,
)


def test_equality_is_high_for_every_boundary() -> None:
    for timestep in range(1, 1001):
        boundary = timestep / 1000
        stored = torch.tensor(boundary)
        assert is_high_noise(stored.item(), boundary)
        assert not is_high_noise(torch.nextafter(stored, torch.tensor(0.0)).item(), boundary)


def test_float_error_of_a_boundary_does_not_matter() -> None:
    assert 0.1 + 0.2 > 0.3
    assert is_high_noise(0.3, 0.1 + 0.2)


def test_truncation_happens_before_the_comparison() -> None:
    """875.9 is 875 to the switch: high for 0.875, low for 0.8755."""
    assert is_high_noise(0.8759, 0.875)
    assert not is_high_noise(0.8759, 0.8755)


def test_boundary_limits() -> None:
    sigmas = make_sigmas("dpm++", 10, 5.0)
    assert count_high_noise_steps(sigmas, 0.0) == 10
    assert count_high_noise_steps(sigmas, 1.0) == 1


def test_last_sigma_is_not_a_call() -> None:
    assert count_high_noise_steps(torch.tensor([1.0, 0.95]), 0.9) == 1
    assert count_high_noise_steps(torch.empty(0), 0.9) == 0


@pytest.mark.parametrize("boundary", [-0.1, 1.1, 875.0, float("nan")])
def test_bad_boundary_is_refused(boundary: float) -> None:
    with pytest.raises(SettingsError, match="need 0 to 1"):
        expert_split("unipc", 20, 5.0, boundary)


def test_plan_of_a_full_run() -> None:
    sigmas = make_sigmas("unipc", 20, 5.0)
    plan = ExpertPlan.of(sigmas, 0.875)
    assert (plan.steps_high, plan.steps_low, plan.switch_step) == (9, 11, 9)
    assert plan.describe() == "High 9 | Low 11"
    assert plan.sigmas == tuple(sigmas.tolist())
    assert plan.warnings() == []
    with pytest.raises(FrozenInstanceError):
        plan.steps_high = 3  # type: ignore[misc]


def test_plan_of_slices_adds_up() -> None:
    sigmas = make_sigmas("euler", 20, 8.0)
    parts = [ExpertPlan.of(sigmas[:8], 0.9), ExpertPlan.of(sigmas[7:], 0.9)]
    assert [part.describe() for part in parts] == ["High 7 | Low 0", "High 3 | Low 10"]


@pytest.mark.parametrize(
    ("values", "boundary", "message"),
    [
        ([], 0.9, "no step"),
        ([0.8, 0.4, 0.0], 0.9, "high-noise expert gets no step.*0.800"),
        ([1.0, 0.95, 0.0], 0.9, "low-noise expert gets no step.*0.950"),
        ([1.0, 0.99, 0.98, 0.97, 0.96, 0.95, 0.7, 0.4, 0.0], 0.9, "Got 2 of 8"),
    ],
)
def test_odd_plans_warn(values: list[float], boundary: float, message: str) -> None:
    plan = ExpertPlan.of(torch.tensor(values), boundary)
    (warning,) = plan.warnings()
    assert plan.steps_high + plan.steps_low == max(0, len(values) - 1)
    assert re.search(message, warning)


def test_short_runs_may_have_few_low_steps() -> None:
    """Four-step distilled models run two steps on each expert."""
    assert ExpertPlan.of(make_sigmas("euler", 4, 5.0), 0.9).warnings() == []
