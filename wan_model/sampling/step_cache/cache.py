"""Fewer forward passes: steps, or their unconditional half, that follow from earlier ones.

A `StepCache` is between a solver and one model for one run. Of every call it decides whether
the model runs. What it bounds: the estimated relative error of each reused velocity, summed up
since the last computed step, stays below a threshold. What it does not bound: the true error, of
which estimates know only what earlier steps have shown, and the difference of the finished video,
to which the errors of all reused velocities add up. The report says what was found at computed
steps; the seed's uncached video is the only full check.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from torch import Tensor

from ...errors import SettingsError
from .estimates import SAME_SIGMA, EasyCacheEstimate, ErrorEstimate, MagCacheEstimate
from .reuse import DeltaReuse, StepReuse

Method = Literal["auto", "easycache", "magcache", "cfg"]
STEP_CACHE_METHODS: tuple[str, ...] = get_args(Method)

MIN_STEPS = 10
"""Shorter runs are left alone. Distilled models take 4 to 8 steps, each a large part of the way:
nothing repeats. And of fewer than 10 steps, hardly any is neither at an end nor warming up."""

WARM_UP = 3
"""Calls of each expert that are always computed: two for a rate of change, one to confirm it."""


@dataclass(frozen=True)
class _Rule:
    """A way to skip whole steps."""

    make_estimate: Callable[[], ErrorEstimate]
    threshold: float
    max_in_a_row: int


STEP_RULES = {
    "easycache": _Rule(EasyCacheEstimate, threshold=0.05, max_in_a_row=4),
    "magcache": _Rule(MagCacheEstimate, threshold=0.06, max_in_a_row=2),
}
"""MagCache's numbers are its authors' for TI2V-5B. EasyCache's and those for guidance below are
chosen for errors of some percent. All were compared at toy size only (benchmarks/step_cache.py)."""

CFG_THRESHOLD = 0.05
CFG_MAX_IN_A_ROW = 4

Evaluate = Callable[[bool], "Prediction"]
"""evaluate(with_uncond) runs the model; without, `uncond` of the result is None."""


class Prediction(NamedTuple):
    """Denoised predictions x0 of one call, each of the sample's shape."""

    cond: Tensor
    uncond: Tensor | None
    """None at guidance scale 1, where nobody asks for it."""


@dataclass(frozen=True, kw_only=True)
class StepCacheSettings:
    """What may be reused, and when.

    Raises:
        SettingsError: for an unknown method, a negative threshold or an empty range of steps.
    """

    method: str = "auto"
    """One of STEP_CACHE_METHODS. "auto" is "easycache", with "cfg" in steps that are computed."""
    threshold: float = 0.0
    """Largest estimated relative error of a reused velocity; 0 means the method's own."""
    start: float = 0.15
    """Part of the run's steps before which everything is computed, 0 to 1."""
    end: float = 0.95
    """Part of the run's steps from which on everything is computed, 0 to 1."""

    def __post_init__(self) -> None:
        if self.method not in STEP_CACHE_METHODS:
            raise SettingsError(
                f"There is no such step cache. Got {self.method!r}, need one of: "
                f"{', '.join(STEP_CACHE_METHODS)}. Choose auto."
            )
        if not self.threshold >= 0:
            raise SettingsError(
                f"The threshold cannot be used. Got {self.threshold:g}, need 0 or more. "
                "Use 0 for the method's own."
            )
        if not 0 <= self.start < self.end <= 1:
            raise SettingsError(
                f"No step lies in the range to cache. Got {self.start:g} to {self.end:g}, need a "
                "start below the end, both from 0 to 1. Use 0.15 to 0.95."
            )

    def why_off(self, steps: int, guidance_scale: float) -> str:
        """Returns why nothing would be reused in a run; empty if something may be."""
        if steps < MIN_STEPS:
            return f"a run of {steps} steps has none to spare; from {MIN_STEPS} steps on some are"
        if self.method == "cfg" and guidance_scale == 1:
            return "at cfg 1 the negative prompt is not computed anyway"
        return ""

    def step_reuse(self) -> StepReuse | None:
        """Returns the part that skips whole steps, new; None if the method does not."""
        rule = STEP_RULES.get("easycache" if self.method == "auto" else self.method)
        if rule is None:
            return None
        return StepReuse(rule.make_estimate, self.threshold or rule.threshold, rule.max_in_a_row)

    def delta_reuse(self, guidance_scale: float) -> DeltaReuse | None:
        """Returns the part that skips unconditional passes, new; None if there are none to skip."""
        if self.method not in ("auto", "cfg") or guidance_scale == 1:
            return None
        return DeltaReuse(guidance_scale, self.threshold or CFG_THRESHOLD, CFG_MAX_IN_A_ROW)


@dataclass
class StepCacheReport:
    """What a run has saved. A step is one call of the model by the solver."""

    steps: int = 0
    skipped: int = 0
    guided: int = 0
    """Computed steps with guidance."""
    uncond_skipped: int = 0
    worst_error: float = 0.0
    """Largest relative error of a reused velocity, seen from the step computed after it."""

    def __str__(self) -> str:
        lines = [f"skipped {self.skipped} of {self.steps} steps"]
        if self.uncond_skipped:
            lines.append(f"negative prompt reused in {self.uncond_skipped} of {self.guided} others")
        if self.worst_error:
            lines.append(f"largest error of a skipped step, seen later: {self.worst_error:.1%}")
        return "\n".join(lines)


class StepCache:
    """One run of one model (one expert), from its first call to its last."""

    def __init__(
        self, settings: StepCacheSettings, sigmas: Sequence[float], guidance_scale: float = 1.0
    ) -> None:
        """Takes the run.

        Args:
            settings: what may be reused.
            sigmas: the whole run's schedule, falling, over both experts; the last is not a call.
            guidance_scale: that of this expert.
        """
        self.report = StepCacheReport()
        self._settings = settings
        self._sigmas = list(sigmas)
        self._scale = guidance_scale
        self.reset()

    def reset(self) -> None:
        """Forgets everything but the report; frees the tensors."""
        self._steps = self._settings.step_reuse()
        self._delta = self._settings.delta_reuse(self._scale)
        self._computed = 0
        self._sigma = math.inf
        self._identity: Hashable = None

    def predict(
        self, x: Tensor, sigma: float, evaluate: Evaluate, context: Hashable = None
    ) -> Prediction:
        """Returns the predictions of one call, computed or reused.

        What is computed is returned as it is. A sample of another shape, type or device, another
        context, or a rising sigma start anew.

        Args:
            x: sample (B, C, ...), not changed; a copy is kept.
            sigma: its noise level, above 0.
            evaluate: runs the model at `x`.
            context: whatever else the predictions depend on, such as the active conditionings.
        """
        identity = (x.shape, x.dtype, x.device, context)
        if identity != self._identity or sigma > self._sigma * SAME_SIGMA:
            self.reset()
        self._identity, self._sigma = identity, sigma
        self.report.steps += 1
        x = x.clone()  # a sampler may work in place
        may_reuse = self._computed >= WARM_UP and self._in_range(sigma)
        if may_reuse and self._steps is not None:
            velocities = self._steps.reuse(x, sigma)
            if velocities is not None:
                self.report.skipped += 1
                cond, *uncond = (x - sigma * velocity for velocity in velocities)
                return Prediction(cond, uncond[0] if uncond else None)
        delta = self._delta.reuse(x, sigma) if may_reuse and self._delta is not None else None
        found = evaluate(delta is None)
        if delta is not None:
            self.report.uncond_skipped += 1
            found = Prediction(found.cond, found.cond + sigma * delta)
        self._learn(x, sigma, found, guidance_is_new=delta is None)
        return found

    def _in_range(self, sigma: float) -> bool:
        """Whether a call is neither in the last step nor outside the chosen part of the run."""
        steps = len(self._sigmas) - 1
        step = sum(other > sigma * SAME_SIGMA for other in self._sigmas[:-1])
        chosen = self._settings.start * steps <= step < self._settings.end * steps
        return chosen and sigma > self._sigmas[-2] * SAME_SIGMA

    def _learn(self, x: Tensor, sigma: float, found: Prediction, *, guidance_is_new: bool) -> None:
        self._computed += 1
        velocities = [(x - x0) / sigma for x0 in found if x0 is not None]
        if self._steps is not None:
            error = self._steps.observe(x, velocities, sigma)
            self.report.worst_error = max(self.report.worst_error, error)
        if len(velocities) == 2:
            self.report.guided += 1
            if self._delta is not None and guidance_is_new:
                self._delta.observe(x, velocities[0], velocities[1], sigma)
