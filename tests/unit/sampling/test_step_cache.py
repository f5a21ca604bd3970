"""Step caches on a velocity field with a known solution: savings, errors, and what is never cached.

Errors are relative to the same run without a cache; its own error is larger than those.
"""

import gc
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.unit.sampling.step_cache_field import (
    SHAPE,
    SHIFT,
    GaussianModel,
    make_model,
    prompts,
    relative,
    run,
    smooth,
)
from wan_model.errors import SettingsError
from wan_model.sampling import (
    STEP_CACHE_METHODS,
    Prediction,
    StepCache,
    StepCacheSettings,
    make_sigmas,
)

STEPS = 40
SCALE = 4.0


def make_cache(scale: float = 1.0, steps: int = STEPS, **settings) -> StepCache:
    sigmas = make_sigmas("euler", steps, SHIFT).tolist()
    return StepCache(StepCacheSettings(**settings), sigmas, scale)


def without_cache(scale: float = 1.0, solver: str = "euler") -> Tensor:
    cond, uncond = prompts()
    return run(lambda _: None, cond, uncond if scale > 1 else None, scale=scale, solver=solver)


def with_cache(cache: StepCache, scale: float = 1.0, **options) -> tuple[Tensor, int, int]:
    """Returns the sample and the numbers of calls with either prompt."""
    cond, uncond = prompts()
    x = run(lambda _: cache, cond, uncond if scale > 1 else None, scale=scale, **options)
    return x, len(cond.calls), len(uncond.calls)


def test_the_field_is_solved() -> None:
    model = make_model(0)
    exact = model.solution(smooth(9))
    assert relative(run(lambda _: None, model, steps=400), exact) < 0.01


@pytest.mark.parametrize("solver", ["euler", "unipc", "dpm++"])
@pytest.mark.parametrize("method", ["easycache", "magcache"])
@pytest.mark.parametrize(("threshold", "saved", "bound"), [(0.05, 15, 0.01), (0.01, 5, 0.001)])
def test_skipped_steps_cost_little(
    solver: str, method: str, threshold: float, saved: int, bound: float
) -> None:
    cache = make_cache(SCALE, method=method, threshold=threshold)
    x, cond_calls, uncond_calls = with_cache(cache, SCALE, solver=solver)

    assert cond_calls == uncond_calls == STEPS - cache.report.skipped
    assert cache.report.skipped >= saved
    assert 0 < relative(x, without_cache(SCALE, solver)) < bound
    assert 0 < cache.report.worst_error < 1.5 * threshold


@pytest.mark.parametrize("method", ["auto", "cfg"])
def test_reused_guidance_costs_little(method: str) -> None:
    cache = make_cache(SCALE, method=method)
    x, cond_calls, uncond_calls = with_cache(cache, SCALE)

    assert cond_calls == STEPS - cache.report.skipped
    assert uncond_calls == cond_calls - cache.report.uncond_skipped
    assert cache.report.uncond_skipped >= 5
    assert (cache.report.skipped > 0) == (method == "auto")
    assert relative(x, without_cache(SCALE)) < 0.01


@pytest.mark.parametrize("method", STEP_CACHE_METHODS)
def test_tiny_threshold_changes_nothing(method: str) -> None:
    cache = make_cache(SCALE, method=method, threshold=1e-9)
    x, cond_calls, uncond_calls = with_cache(cache, SCALE)

    assert (cond_calls, uncond_calls) == (STEPS, STEPS)
    assert x.equal(without_cache(SCALE))


@pytest.mark.parametrize("method", STEP_CACHE_METHODS)
def test_ends_of_a_run_are_computed(method: str) -> None:
    """With any error allowed, everywhere: the first three steps and the last."""
    cache = make_cache(SCALE, method=method, threshold=1e9, start=0.0, end=1.0)
    cond, uncond = prompts()
    run(lambda _: cache, cond, uncond, scale=SCALE)
    sigmas = make_sigmas("euler", STEPS, SHIFT).tolist()

    for model in (cond, uncond):
        assert model.calls[:3] == sigmas[:3]
        assert model.calls[-1] == sigmas[-2]
    assert len(uncond.calls) < STEPS / 2


@pytest.mark.parametrize("method", ["easycache", "magcache"])
def test_range_of_steps(method: str) -> None:
    cache = make_cache(method=method, threshold=1e9, start=0.3, end=0.6)
    model = make_model(0)
    run(lambda _: cache, model)
    sigmas = make_sigmas("euler", STEPS, SHIFT).tolist()
    skipped = set(range(STEPS)) - {sigmas.index(sigma) for sigma in model.calls}

    assert skipped
    assert skipped <= set(range(12, 24))
    assert 12 in skipped


@pytest.mark.parametrize(("method", "row"), [("easycache", 4), ("magcache", 2)])
def test_never_many_skips_in_a_row(method: str, row: int) -> None:
    cache = make_cache(method=method, threshold=1e9, start=0.0, end=1.0)
    model = make_model(0)
    run(lambda _: cache, model)
    sigmas = make_sigmas("euler", STEPS, SHIFT).tolist()
    computed = [sigmas.index(sigma) for sigma in model.calls]

    gaps = {after - before - 1 for before, after in pairwise(computed)}
    assert max(gaps) == row


def test_order_of_the_prompts_does_not_matter() -> None:
    first, *calls = with_cache(make_cache(SCALE), SCALE)
    swapped, *swapped_calls = with_cache(make_cache(SCALE), SCALE, swap=True)

    assert calls == swapped_calls
    assert first.equal(swapped)


def test_experts_know_nothing_of_each_other() -> None:
    """Two experts with a cache each: the second begins anew, and a hard switch does no harm."""
    boundary, sigmas = 0.9, make_sigmas("euler", STEPS, SHIFT).tolist()
    high, low = make_model(0), make_model(20)

    def run_pair(caches: dict[bool, StepCache] | None) -> Tensor:
        class Pair(GaussianModel):
            def __call__(self, x: Tensor, sigma: float) -> Tensor:
                return (high if sigma >= boundary else low)(x, sigma)

        pair = Pair(high.mean, high.deviation)
        return run(lambda sigma: None if caches is None else caches[sigma >= boundary], pair)

    plain = run_pair(None)
    high.calls.clear()
    low.calls.clear()
    cached = run_pair({True: make_cache(start=0.0), False: make_cache(start=0.0)})
    switch = sum(sigma >= boundary for sigma in sigmas[:-1])

    assert low.calls[:3] == sigmas[switch : switch + 3]
    assert len(high.calls) < switch
    assert len(low.calls) < STEPS - switch
    assert relative(cached, plain) < 0.03


@pytest.mark.parametrize("change", ["shape", "dtype", "context", "sigma"])
def test_anything_else_starts_anew(change: str) -> None:
    """A cache that would skip everything computes three times after a change."""
    cache = make_cache(threshold=1e9, start=0.0, end=1.0)
    sigmas = make_sigmas("euler", STEPS, SHIFT).tolist()
    computed: list[int] = []

    def call(step: int, x: Tensor, context: str = "") -> None:
        def evaluate(_: bool) -> Prediction:
            computed.append(step)
            return Prediction(0.9 * x, None)

        cache.predict(x, sigmas[step], evaluate, context)

    for step in range(5):
        call(step, smooth(step))
    assert computed == [0, 1, 2]
    for step in range(5, 9):
        x = smooth(step)
        if change == "shape":
            call(step, torch.cat((x, x)))
        elif change == "dtype":
            call(step, x.double())
        elif change == "context":
            call(step, x, "other")
        else:
            call(step - 5, x)
    expected = [0, 1, 2] if change == "sigma" else [5, 6, 7]
    assert computed == [0, 1, 2, *expected]


@pytest.mark.parametrize("method", ["easycache", "magcache"])
@pytest.mark.parametrize("rounding", [-3e-6, 3e-6])
def test_sigmas_that_a_sampler_rounded(method: str, rounding: float) -> None:
    """Samplers that take logarithms hit the sigmas of the list, and their own, up to rounding."""
    sigmas = make_sigmas("euler", STEPS, SHIFT).tolist()

    def computed(*factors: float) -> list[tuple[int, int]]:
        """Returns which calls were computed, with one call at each sigma times each factor."""
        cache = make_cache(method=method, threshold=1e9, start=0.3, end=1.0)
        found: list[tuple[int, int]] = []
        for step, sigma in enumerate(sigmas[:-1]):
            for call, factor in enumerate(factors):
                x = smooth(2 * step + call)

                def evaluate(_: bool, x: Tensor = x, at: tuple[int, int] = (step, call)):
                    found.append(at)
                    return Prediction(0.9 * x, None)

                cache.predict(x, sigma * factor, evaluate)
        return found

    rounded = 1 + rounding
    assert computed(rounded) == computed(1.0)
    assert computed(1.0, rounded) == computed(rounded, 1.0) == computed(1.0, 1.0)
    assert len(computed(1.0, 1.0)) < 2 * STEPS - 20


@pytest.mark.parametrize("method", STEP_CACHE_METHODS)
def test_noise_levels_close_together(method: str) -> None:
    """A residual that grows within one is continued to the next level as an error, not a crash."""
    sigmas = [0.99, 0.97, 0.96, 0.96 * (1 - 2e-5), 0.8, 0.7, 0.0]
    cache = StepCache(StepCacheSettings(method=method, start=0.0, end=1.0), sigmas, SCALE)
    computed = []
    for step, sigma in enumerate(sigmas[:-1]):
        x = smooth(step) * (5 if step == 3 else 1)

        def evaluate(_: bool, step: int = step, x: Tensor = x) -> Prediction:
            computed.append(step)
            return Prediction(0.9 * x, 0.8 * x)

        cache.predict(x, sigma, evaluate)
    assert computed == list(range(6))


def test_nothing_is_kept_of_a_run() -> None:
    def tensors() -> int:
        gc.collect()
        return sum(type(o) is Tensor and o.shape == SHAPE for o in gc.get_objects())

    gc.freeze()  # Other tests' objects are not looked at again.
    try:
        before = tensors()
        cache = make_cache(SCALE)
        with_cache(cache, SCALE)
        assert tensors() > before
        cache.reset()
        assert tensors() == before
        assert cache.report.steps == STEPS
    finally:
        gc.unfreeze()


def test_samplers_that_work_in_place() -> None:
    """What a cache remembers does not change with the sample it was given."""
    model, results = make_model(0), []
    for in_place in (False, True):
        cache = make_cache(threshold=1e9, start=0.0, end=1.0)
        x = smooth(9)
        sigmas = make_sigmas("euler", STEPS, SHIFT).tolist()
        for sigma, following in pairwise(sigmas):

            def evaluate(_: bool, x: Tensor = x, sigma: float = sigma) -> Prediction:
                return Prediction(model(x, sigma), None)

            x0 = cache.predict(x, sigma, evaluate).cond
            step = (x - x0) * ((following - sigma) / sigma)
            x = x.add_(step) if in_place else x + step
        results.append(x)
    assert results[0].equal(results[1])


def test_off_for_few_steps_and_for_guidance_that_is_not_there() -> None:
    settings = StepCacheSettings()
    assert "4 steps" in settings.why_off(4, 1.0)
    assert settings.why_off(9, 4.0)
    assert not settings.why_off(10, 1.0)
    assert "cfg 1" in StepCacheSettings(method="cfg").why_off(40, 1.0)
    assert not StepCacheSettings(method="cfg").why_off(40, 3.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "teacache"}, "no such step cache"),
        ({"threshold": -0.1}, "need 0 or more"),
        ({"threshold": float("nan")}, "need 0 or more"),
        ({"start": 0.5, "end": 0.5}, "start below the end"),
        ({"end": 1.5}, "both from 0 to 1"),
    ],
)
def test_bad_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        StepCacheSettings(**settings)


def test_report() -> None:
    cache = make_cache(SCALE)
    with_cache(cache, SCALE)
    report = cache.report

    assert report.steps == STEPS
    assert report.guided == STEPS - report.skipped
    lines = str(report).splitlines()
    assert lines[0] == f"skipped {report.skipped} of 40 steps"
    assert f"reused in {report.uncond_skipped} of {report.guided} others" in lines[1]
    assert lines[2].endswith("%")
