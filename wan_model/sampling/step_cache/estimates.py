"""How far off a reused prediction would be, estimated without running the model.

Two estimates from the literature, both made from what earlier steps of the same run have shown,
so that no table of a model is needed. They are first-order: an abrupt change of the velocity
field between two steps is not seen by either.
"""

import math
from typing import Protocol

from torch import Tensor
from torch.linalg import vector_norm

SAME_SIGMA = 1 + 1e-5
"""Samplers that take logarithms hit the sigmas of the list, and their own, only up to rounding."""

MAX_LOG_RATIO = 100.0
"""Far beyond any ratio of two residuals, and within the range of floats."""


class ErrorEstimate(Protocol):
    """Follows one quantity (a velocity, of one expert and one prompt) through a run.

    Every call of the model is told by exactly one of the two methods, in order.
    """

    def observe(self, x: Tensor, value: Tensor, sigma: float) -> None:
        """Takes what the model computed at sample `x`, same shape; the error is 0 again."""
        ...

    def advance(self, x: Tensor, sigma: float) -> float:
        """Returns the error, relative to the value, of not computing at `x` either.

        It accumulates over the calls since the last computed one, and is infinite as long as
        nothing is known.
        """
        ...


class EasyCacheEstimate:
    """The accumulated relative change of EasyCache (arXiv:2507.02860).

    Between the last two computed steps j < i the value v moved k = |v_i - v_j| / |x_i - x_j| times
    as far as the sample, the transformation rate. If it goes on so, then after skipping to step n

        error = sum over m = i + 1 .. n of  k * |x_m - x_(m-1)| / |v_i|

    The paper divides by the approximated |v_(m-1)|; for small errors that is the same.
    """

    def __init__(self) -> None:
        self._x: Tensor | None = None
        """Sample of the last call, computed or not."""
        self._computed: tuple[Tensor, Tensor] | None = None
        """Sample and value of the last computed call."""
        self._relative_rate = math.inf
        self._error = 0.0

    def observe(self, x: Tensor, value: Tensor, sigma: float) -> None:  # noqa: ARG002
        """Measures the transformation rate; see `ErrorEstimate.observe`."""
        if self._computed is not None:
            old_x, old_value = self._computed
            rate = distance(value, old_value) / max(distance(x, old_x), math.ulp(0.0))
            self._relative_rate = rate / max(norm(value), math.ulp(0.0))
        self._computed = (x, value)
        self._x = x
        self._error = 0.0

    def advance(self, x: Tensor, sigma: float) -> float:  # noqa: ARG002
        """Adds the change expected of this step; see `ErrorEstimate.advance`."""
        if self._x is None or math.isinf(self._relative_rate):
            return math.inf
        self._error += self._relative_rate * distance(x, self._x)
        self._x = x
        return self._error


class MagCacheEstimate:
    """The accumulated magnitude error of MagCache (arXiv:2506.09045), calibrated within the run.

    With the residual r = v - x and the ratio gamma_n = |r_n| / |r_(n-1)|, skipping from the last
    computed step i to step n costs

        error = sum over m = i + 1 .. n of  |1 - gamma_(i+1) * ... * gamma_m|

    The paper reads gamma from a table, recorded once per model, number of steps and schedule. Here
    log |r| is continued in a straight line over sigma through the last two computed steps, which
    fits any model, LoRA and schedule, at the price of two computed steps. As in the paper, a change
    of direction at equal magnitude is not seen.
    """

    def __init__(self) -> None:
        self._computed: tuple[float, float] | None = None
        """Sigma and log |r| of the last computed call."""
        self._slope: float | None = None
        self._error = 0.0

    def observe(self, x: Tensor, value: Tensor, sigma: float) -> None:
        """Measures how log |r| changes with sigma; see `ErrorEstimate.observe`."""
        log_norm = math.log(max(distance(value, x), math.ulp(0.0)))
        # Two looks at one noise level say nothing about the way to the next.
        if self._computed is not None and not same_sigma(sigma, self._computed[0]):
            self._slope = (log_norm - self._computed[1]) / (sigma - self._computed[0])
        self._computed = (sigma, log_norm)
        self._error = 0.0

    def advance(self, x: Tensor, sigma: float) -> float:  # noqa: ARG002
        """Adds the magnitude error expected of this step; see `ErrorEstimate.advance`."""
        if self._computed is None or self._slope is None:
            return math.inf
        # Levels close together can make the line so steep that its end is no number.
        log_ratio = min(self._slope * (sigma - self._computed[0]), MAX_LOG_RATIO)
        self._error += abs(math.expm1(log_ratio))
        return self._error


def same_sigma(a: float, b: float) -> bool:
    """Whether two noise levels differ by rounding only."""
    return max(a, b) <= min(a, b) * SAME_SIGMA


def norm(a: Tensor) -> float:
    """Returns the Euclidean length of all values together."""
    return vector_norm(a.float()).item()


def distance(a: Tensor, b: Tensor) -> float:
    """Returns the Euclidean distance of two tensors of one shape."""
    return vector_norm(a.float() - b.float()).item()
