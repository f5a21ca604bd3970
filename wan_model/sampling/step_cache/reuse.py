"""What may be reused instead of running the model: whole steps, or the effect of guidance."""

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from ..solvers import guide
from .estimates import EasyCacheEstimate, ErrorEstimate, distance, norm


class ResidualTrack:
    """The last residual r = v - x of one prompt, reused as v = x + r, and how wrong that would be.

    Besides the estimate of a method, each computed step shows what reuse would have cost there.
    The larger of the two counts, the latter in proportion to the way the sample has gone.
    """

    def __init__(self, estimate: ErrorEstimate) -> None:
        self._estimate = estimate
        self._computed: tuple[Tensor, Tensor] | None = None
        """Sample and residual of the last computed call."""
        self._measured_rate = 0.0
        self._reused_way = 0.0
        """How far the sample had gone when the residual was last reused."""

    def observe(self, x: Tensor, velocity: Tensor, sigma: float) -> float:
        """Takes a computed velocity.

        Returns:
            The relative error at the last reuse, as the computed velocity lets it appear; 0 if
            there was none since the velocity computed before.
        """
        if self._computed is not None and (length := norm(velocity)):
            old_x, residual = self._computed
            error = distance(velocity, x + residual) / length
            self._measured_rate = error / (distance(x, old_x) or math.inf)
        self._estimate.observe(x, velocity, sigma)
        self._computed = (x, velocity - x)
        reused_way, self._reused_way = self._reused_way, 0.0
        return self._measured_rate * reused_way

    def error(self, x: Tensor, sigma: float) -> float:
        """Returns the relative error to expect of reuse at `x`, infinite if nothing is known."""
        expected = self._estimate.advance(x, sigma)
        if self._computed is None:
            return math.inf
        return max(expected, self._measured_rate * distance(x, self._computed[0]))

    def reuse(self, x: Tensor) -> Tensor:
        """Returns the velocity at `x` by reuse."""
        assert self._computed is not None
        old_x, residual = self._computed
        self._reused_way = distance(x, old_x)
        return x + residual


class StepReuse:
    """Skips a step if all of its predictions can be reused.

    All or none: guidance multiplies the difference of two predictions, so one from now and one
    from before would be worse than two from before.
    """

    def __init__(
        self, make_estimate: Callable[[], ErrorEstimate], threshold: float, max_in_a_row: int
    ) -> None:
        self._make_estimate = make_estimate
        self._threshold = threshold
        self._max_in_a_row = max_in_a_row
        self._in_a_row = 0
        self._tracks: list[ResidualTrack] = []

    def reuse(self, x: Tensor, sigma: float) -> list[Tensor] | None:
        """Returns velocities at `x` in the order of `observe`, or None: then compute."""
        error = max((track.error(x, sigma) for track in self._tracks), default=math.inf)
        if not error < self._threshold or self._in_a_row >= self._max_in_a_row:
            return None
        self._in_a_row += 1
        return [track.reuse(x) for track in self._tracks]

    def observe(self, x: Tensor, velocities: Sequence[Tensor], sigma: float) -> float:
        """Takes computed velocities, always as many; returns the largest error of their tracks."""
        if not self._tracks:
            self._tracks = [ResidualTrack(self._make_estimate()) for _ in velocities]
        self._in_a_row = 0
        return max(
            track.observe(x, velocity, sigma)
            for track, velocity in zip(self._tracks, velocities, strict=True)
        )


class DeltaReuse:
    """Reuses the difference of the predictions with both prompts, and saves the negative one's.

    Its change is estimated as EasyCache estimates that of a velocity, but relative to the guided
    velocity, which it enters times (guidance scale - 1).
    """

    def __init__(self, guidance_scale: float, threshold: float, max_in_a_row: int) -> None:
        self._scale = guidance_scale
        # Samplers of the CFG++ family step along the negative prediction itself, with weight 1.
        self._weight = max(guidance_scale - 1, 1.0)
        self._threshold = threshold
        self._max_in_a_row = max_in_a_row
        self._in_a_row = 0
        self._estimate = EasyCacheEstimate()
        self._delta: Tensor | None = None
        self._to_guided = math.inf

    def reuse(self, x: Tensor, sigma: float) -> Tensor | None:
        """Returns cond - uncond (velocities) at `x`, or None: then compute."""
        if self._delta is None:
            return None
        error = self._estimate.advance(x, sigma) * self._to_guided
        if not error < self._threshold or self._in_a_row >= self._max_in_a_row:
            return None
        self._in_a_row += 1
        return self._delta

    def observe(self, x: Tensor, cond: Tensor, uncond: Tensor, sigma: float) -> None:
        """Takes two computed velocities."""
        delta = cond - uncond
        self._estimate.observe(x, delta, sigma)
        guided = norm(guide(cond, uncond, self._scale))
        self._to_guided = self._weight * norm(delta) / guided if guided else math.inf
        self._delta = delta
        self._in_a_row = 0
