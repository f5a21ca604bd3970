"""Properties of the solvers: order, limits, history, slices. Agreement is tested in parity."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from wan_model.errors import SettingsError
from wan_model.sampling import SOLVERS, guide, make_sigmas, make_solver, model_timestep, solve

MEAN, SPREAD = 0.4, 0.6
"""Of the data distribution whose velocity is known in closed form."""


def denoised(x: Tensor, sigma: float) -> Tensor:
    """x0 prediction of a perfect model of data ~ N(MEAN, SPREAD^2); linear in x."""
    alpha = 1 - sigma
    gain = SPREAD**2 * alpha / ((SPREAD * alpha) ** 2 + sigma**2)
    return MEAN + gain * (x - alpha * MEAN)


def sample_at(z: Tensor, sigma: float) -> Tensor:
    """Exact solution of the flow of `denoised` that passes through `z` standard deviations."""
    alpha = 1 - sigma
    return alpha * MEAN + math.hypot(SPREAD * alpha, sigma) * z


def velocity(x: Tensor, sigma: float, _timestep: float) -> Tensor:
    return torch.sin(3 * x) + 0.5 * x * sigma


def run(solver: str, sigmas: Tensor, x: Tensor) -> list[Tensor]:
    """All samples of a run with `velocity`, the first included."""
    samples = [x]
    solve(solver, velocity, x, sigmas, on_step=lambda _index, _x0, x: samples.append(x))
    return samples


@pytest.fixture
def noise() -> Tensor:
    return torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(7))


def error_of(solver: str, steps: int) -> float:
    """Error at sigma 0.1 after `steps` steps from sigma 0.9, in float64."""
    z = torch.tensor([-1.3, 0.2, 2.0], dtype=torch.float64)
    sigmas = torch.linspace(0.9, 0.1, steps + 1, dtype=torch.float64)
    run = make_solver(solver, sigmas)
    x = sample_at(z, 0.9)
    for index, sigma in enumerate(run.sigmas[:-1]):
        x = run.step(index, denoised(x, sigma), x)
    return (x - sample_at(z, 0.1)).abs().max().item()


@pytest.mark.parametrize(("solver", "low", "high"), [("euler", 0.9, 1.1), ("dpm++", 1.8, 2.2)])
def test_observed_order(solver: str, low: float, high: float) -> None:
    for steps in (40, 80, 160):
        order = math.log2(error_of(solver, steps) / error_of(solver, 2 * steps))
        assert low < order < high


def test_observed_order_of_unipc() -> None:
    """At least 2 everywhere, and the corrector makes it several times better than DPM++."""
    for steps in (40, 80, 160):
        assert math.log2(error_of("unipc", steps) / error_of("unipc", 2 * steps)) > 1.9
        assert error_of("unipc", steps) < 0.5 * error_of("dpm++", steps)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 20, 120])
@pytest.mark.parametrize("schedule", SOLVERS)
def test_run_ends_at_exactly_the_last_x0(
    solver: str, steps: int, schedule: str, noise: Tensor
) -> None:
    """Also on the other solvers' lists: at sigma 1 half the terms are infinite, none may be NaN."""
    predictions = []
    out = solve(
        solver,
        velocity,
        noise,
        make_sigmas(schedule, steps, 12.0),
        on_step=lambda _index, x0, _x: predictions.append(x0),
    )
    assert len(predictions) == steps
    assert torch.equal(out, predictions[-1])
    assert out.isfinite().all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_constant_prediction_is_a_straight_line(solver: str, noise: Tensor) -> None:
    target = torch.full_like(noise, 0.7)
    sigmas = make_sigmas(solver, 12, 5.0)
    run = make_solver(solver, sigmas)
    x = sigmas[0] * noise + (1 - sigmas[0]) * target
    for index, (_, sigma) in enumerate(pairwise(run.sigmas)):
        x = run.step(index, target, x)
        torch.testing.assert_close(x, sigma * noise + (1 - sigma) * target, atol=3e-6, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_sigma_one_is_the_limit_of_sigmas_below(solver: str, noise: Tensor) -> None:
    sigmas = torch.tensor([1.0, 0.9, 0.7, 0.4, 0.0])
    almost = sigmas.clone()
    almost[0] = torch.nextafter(sigmas[0], sigmas[-1])
    z = noise.double()
    ends = []
    for schedule in (sigmas, almost):
        run = make_solver(solver, schedule.double())
        x = z
        for index, sigma in enumerate(run.sigmas[:-1]):
            x = run.step(index, denoised(x, sigma), x)
        ends.append(x)
    # lambda only reaches 17 at the fp32 number below 1, so the limit is approached slowly.
    torch.testing.assert_close(ends[0], ends[1], atol=0.02, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_leftover_noise_run_is_the_beginning_of_the_full_run(solver: str, noise: Tensor) -> None:
    sigmas = make_sigmas(solver, 20, 5.0)
    full, part = run(solver, sigmas, noise), run(solver, sigmas[:9], noise)
    assert len(part) == 9
    assert all(torch.equal(a, b) for a, b in zip(part, full, strict=False))


@pytest.mark.parametrize("solver", SOLVERS)
def test_run_split_in_two(solver: str, noise: Tensor) -> None:
    """Equals one run exactly without history, differs with it: the history belongs to the run."""
    sigmas = make_sigmas(solver, 20, 5.0)
    whole = solve(solver, velocity, noise, sigmas)
    first = solve(solver, velocity, noise, sigmas[:10])
    second = solve(solver, velocity, first, sigmas[9:])
    assert torch.equal(second, whole) == (solver == "euler")
    torch.testing.assert_close(second, whole, atol=0.2, rtol=0)


@pytest.mark.parametrize("solver", ["unipc", "dpm++"])
def test_history_is_kept_over_an_expert_switch(solver: str, noise: Tensor) -> None:
    """One solver across both experts is not two solvers, one per expert."""

    def experts(x: Tensor, sigma: float, timestep: float) -> Tensor:
        return velocity(x, sigma, timestep) * (1.3 if timestep >= 875 else 1.0)

    sigmas = make_sigmas(solver, 20, 8.0)
    switch = 11
    whole = solve(solver, experts, noise, sigmas)
    restarted = solve(solver, experts, noise, sigmas[: switch + 1])
    restarted = solve(solver, experts, restarted, sigmas[switch:])
    assert (whole - restarted).abs().max() > 1e-4


def timesteps_of(solver: str, noise: Tensor) -> list[float]:
    seen: list[float] = []

    def record(x: Tensor, _sigma: float, timestep: float) -> Tensor:
        seen.append(timestep)
        return x

    solve(solver, record, noise, make_sigmas(solver, 4, 5.0))
    return seen


def test_timestep_is_truncated_but_for_euler(noise: Tensor) -> None:
    seen = {solver: timesteps_of(solver, noise) for solver in SOLVERS}
    assert seen["unipc"] == [999, 937, 833, 624]
    assert seen["dpm++"] == [1000, 937, 833, 625]
    assert all(isinstance(t, int) for name in ("unipc", "dpm++") for t in seen[name])
    assert seen["euler"] == pytest.approx([1000, 937.5, 833.3333, 625], abs=1e-4)
    assert model_timestep("euler", 0.9375) == 937.5


def test_computes_in_fp32_and_leaves_its_input_alone(noise: Tensor) -> None:
    x = noise.bfloat16()
    before = x.clone()

    def low_precision(x: Tensor, sigma: float, timestep: float) -> Tensor:
        assert x.dtype == torch.float32
        return velocity(x, sigma, timestep).bfloat16()

    def promoted(x: Tensor, sigma: float, timestep: float) -> Tensor:
        return low_precision(x, sigma, timestep).float()

    for solver in SOLVERS:
        sigmas = make_sigmas(solver, 4, 5.0)
        out = solve(solver, low_precision, x, sigmas)
        assert out.dtype == torch.float32
        assert torch.equal(out, solve(solver, promoted, x, sigmas))
    assert torch.equal(x, before)


def test_bad_arguments_are_refused(noise: Tensor) -> None:
    with pytest.raises(SettingsError, match="Got 'heun'"):
        make_solver("heun", make_sigmas("euler", 4, 5.0))
    with pytest.raises(SettingsError, match="at least 2"):
        solve("unipc", velocity, noise, torch.tensor([1.0]))
    with pytest.raises(SettingsError, match="followed by"):
        solve("unipc", velocity, noise, torch.tensor([0.5, 0.9, 0.0]))


def test_guide_extrapolates_from_uncond() -> None:
    cond, uncond = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0])
    assert guide(cond, uncond, 3.5).tolist() == [8.0, 1.0]
    assert torch.equal(guide(cond, uncond, 1.0), cond)
    assert torch.equal(guide(cond, uncond, 0.0), uncond)


def test_guide_computes_in_fp32() -> None:
    cond, uncond = torch.full((1,), 1.0078125), torch.ones(1)
    guided = guide(cond.bfloat16(), uncond.bfloat16(), 4.3)
    assert guided.dtype == torch.float32
    torch.testing.assert_close(guided, uncond + 4.3 * (cond - uncond))
