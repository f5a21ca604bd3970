"""Schedules: official lists, truncated timesteps, denoise and step ranges."""

import math

import pytest
import torch
from torch import Tensor

from wan_model.errors import SettingsError
from wan_model.sampling import (
    SOLVERS,
    check_sigmas,
    make_sigmas,
    make_timesteps,
    official_timestep,
    schedule_for_denoise,
    shift_sigma,
    trim_steps,
)

SHIFTS = (1, 2, 3, 3.5, 5, 7, 8, 12, 16, 17)


def exact(solver: str, steps: int, shift: float) -> Tensor:
    """Float64 sigmas without the final 0, by other means than the library."""
    start = torch.tensor(0.999).double().item() if solver == "unipc" else 1.0
    base = torch.tensor([i * (-start / steps) + start for i in range(steps)], dtype=torch.float64)
    return shift * base / (1 + (shift - 1) * base)


def fp32_below(value: float) -> float:
    return torch.nextafter(torch.tensor(value), torch.tensor(0.0)).item()


def test_shift_sigma() -> None:
    assert shift_sigma(0.3, 1.0) == 0.3
    assert shift_sigma(1.0, 12.0) == 1.0
    assert shift_sigma(0.5, 3.0) == 0.75


@pytest.mark.parametrize("solver", SOLVERS)
def test_sigmas_and_timesteps_of_every_list(solver: str) -> None:
    """One rule serves all lists: the fp32 list alone yields the official truncated timesteps."""
    for shift in SHIFTS:
        for steps in (*range(1, 41), 50, 100):
            sigmas = make_sigmas(solver, steps, shift)
            reference = exact(solver, steps, shift)
            timesteps = (reference * 1000).long().tolist()
            where = f"{solver} {steps} steps shift {shift}"
            assert make_timesteps(solver, steps, shift).tolist() == timesteps, where
            assert [official_timestep(s) for s in sigmas[:-1].tolist()] == timesteps, where
            torch.testing.assert_close(sigmas[:-1].double(), reference, atol=1e-7, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 4, 20, 120, 1000])
def test_sigmas_fall_strictly_to_zero(solver: str, steps: int) -> None:
    sigmas = make_sigmas(solver, steps, 12.0)
    assert sigmas.dtype == torch.float32
    assert sigmas.shape == (steps + 1,)
    assert check_sigmas(sigmas)[-1] == 0
    assert make_timesteps(solver, steps, 12.0).dtype == torch.int64


def test_first_sigma() -> None:
    assert make_sigmas("dpm++", 20, 5.0)[0] == 1
    assert make_sigmas("euler", 20, 5.0)[0] == 1
    assert make_sigmas("unipc", 20, 5.0)[0] == pytest.approx(0.9998, abs=1e-6)


def test_every_whole_timestep_survives_fp32() -> None:
    for timestep in range(1, 1001):
        stored = torch.tensor(timestep / 1000).item()
        assert official_timestep(stored) == timestep
        assert official_timestep(timestep / 1000) == timestep
        assert official_timestep(fp32_below(stored)) == timestep - 1


def test_float64_just_below_a_timestep_stays_below() -> None:
    """26 steps at shift 17: float64 gives 899.9999999999999, which the official code truncates."""
    index = make_timesteps("dpm++", 26, 17.0).tolist().index(899)
    sigma = make_sigmas("dpm++", 26, 17.0)[index].item()
    assert sigma == fp32_below(torch.tensor(0.9).item())
    assert official_timestep(sigma) == 899


def test_long_schedules_repeat_timesteps() -> None:
    timesteps = make_timesteps("unipc", 120, 12.0).tolist()
    assert timesteps[0] == timesteps[1] == 999


@pytest.mark.parametrize(
    ("solver", "steps", "shift", "message"),
    [
        ("uni_pc", 20, 5.0, "Got 'uni_pc'.*unipc, dpm\\+\\+, euler"),
        ("unipc", 0, 5.0, "Got 0, need 1 or more"),
        ("dpm++", -3, 5.0, "Got -3"),
        ("unipc", 20, 0.0, "Got 0, need a number above 0"),
        ("unipc", 20, -1.0, "Got -1"),
        ("unipc", 20, math.nan, "Got nan"),
        ("unipc", 20, math.inf, "Got inf"),
    ],
)
def test_bad_settings_are_refused(solver: str, steps: int, shift: float, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make_sigmas(solver, steps, shift)
    with pytest.raises(SettingsError, match=message):
        make_timesteps(solver, steps, shift)


def make(steps: int) -> Tensor:
    return make_sigmas("dpm++", steps, 5.0)


@pytest.mark.parametrize("denoise", [1.0, 2.0, 0.99995])
def test_denoise_one_is_the_full_schedule(denoise: float) -> None:
    assert torch.equal(schedule_for_denoise(make, 10, denoise), make(10))


@pytest.mark.parametrize(
    ("steps", "denoise", "total"), [(10, 0.5, 20), (20, 0.7, 28), (1, 0.3, 3), (10, 0.9999, 10)]
)
def test_denoise_takes_the_tail_of_a_longer_schedule(
    steps: int, denoise: float, total: int
) -> None:
    sigmas = schedule_for_denoise(make, steps, denoise)
    assert torch.equal(sigmas, make(total)[total - steps :])


@pytest.mark.parametrize("denoise", [0.0, -1.0])
def test_denoise_zero_is_empty(denoise: float) -> None:
    assert len(schedule_for_denoise(make, 10, denoise)) == 0


def comfy_range(sigmas: Tensor, start: int, end: int, force: bool) -> list[float]:
    """The rules of ComfyUI's KSampler.sample, one by one, for lists of floats."""
    values = sigmas.tolist()
    if end < len(values) - 1:
        values = values[: end + 1]
        if force:
            values[-1] = 0.0
    return values[start:] if start < len(values) - 1 else []


def test_step_range_follows_ksampler_advanced() -> None:
    sigmas = make(6)
    before = sigmas.clone()
    for start in range(9):
        for end in (*range(9), 10_000):
            for force in (False, True):
                got = trim_steps(sigmas, start, end, force).tolist()
                assert got == comfy_range(before, start, end, force), (start, end, force)
                assert len(got) != 1
    assert torch.equal(sigmas, before)


def test_step_range_of_an_empty_schedule_is_empty() -> None:
    assert len(trim_steps(torch.empty(0), 0, 10_000, True)) == 0


def test_adjoining_step_ranges_share_their_sigma() -> None:
    sigmas = make(6)
    first, second = trim_steps(sigmas, 0, 2, False), trim_steps(sigmas, 2, 10_000, True)
    assert torch.equal(torch.cat([first, second[1:]]), sigmas)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "Got 0 sigmas, need at least 2"),
        ([1.0], "Got 1 sigmas"),
        ([1.0, 0.5, 0.5, 0.0], "0.5 followed by 0.5 at step 1"),
        ([0.5, 0.8, 0.0], "0.5 followed by 0.8"),
        ([14.6, 7.0, 0.0], "14.6 followed by 7"),
        ([1.0, -0.1], "1 followed by -0.1"),
        ([math.nan, 0.0], "nan"),
        ([1.0, math.nan], "nan"),
    ],
)
def test_unsolvable_schedules_are_refused(values: list[float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_sigmas(torch.tensor(values))
