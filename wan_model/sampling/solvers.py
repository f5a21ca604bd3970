"""The official solvers of Wan2.2, UniPC and DPM++ 2M, and Euler, for flow models; guidance.

All integrate dx / dsigma = velocity with the denoised prediction x0 = x - sigma * velocity. With
lambda = log((1 - sigma) / sigma), half the log signal-to-noise ratio, the exponential integrators
of the papers reduce for flow models to one step:

    x_next = r * x + (1 - r) * (x0 + correction),    r = sigma_next / sigma

Euler has no correction. DPM++ 2M and the UniPC predictor extrapolate x0 in lambda by half a step.
UniPC also redoes the previous step once it knows the prediction at its end (the corrector).
At sigma = 1 lambda is -inf and at sigma = 0 it is +inf; the formulas below are ordered so that
both limits come out right by themselves.

Sources: `wan/utils/fm_solvers_unipc.py` (order 2, variant bh2) and `wan/utils/fm_solvers.py`;
DPM-Solver++ arXiv:2211.01095, UniPC arXiv:2302.04867. Step 0 is the first of the list given and
not of the official schedule, and only a step to sigma 0 is the final one, so slices run as well.
"""

import math
from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from ..config import TIMESTEPS
from ..errors import SettingsError
from .schedule import SOLVERS, check_sigmas, official_timestep

VelocityFn = Callable[[Tensor, float, float], Tensor]
"""velocity_fn(x, sigma, timestep) -> velocity, shape of x."""

StepCallback = Callable[[int, Tensor, Tensor], None]
"""on_step(index, x0, x): the denoised prediction of a finished step, and the sample after it."""


class Solver(Protocol):
    """One run along a schedule. Steps are taken in order; history is kept between them."""

    sigmas: list[float]

    def step(self, index: int, x0: Tensor, x: Tensor) -> Tensor:
        """Advances a sample from sigmas[index] to sigmas[index + 1].

        Args:
            index: step, counted from 0 in the list that the solver was made with.
            x0: denoised prediction, fp32.
            x: the sample that the model was evaluated at, fp32, same shape.

        Returns:
            The sample at sigmas[index + 1], a new tensor; exactly `x0` where that sigma is 0.
        """
        ...


class Euler:
    """First order, no history; what distilled models are made for."""

    def __init__(self, sigmas: list[float]) -> None:
        self.sigmas = sigmas

    def step(self, index: int, x0: Tensor, x: Tensor) -> Tensor:
        """Follows the velocity at the sample; see `Solver.step`."""
        return _advance(x, x0, self.sigmas[index], self.sigmas[index + 1])


class DPMpp:
    """DPM-Solver++ (2M), midpoint form: second order, first in the first and the final step."""

    def __init__(self, sigmas: list[float]) -> None:
        self.sigmas = sigmas
        self._previous_x0: Tensor | None = None

    def step(self, index: int, x0: Tensor, x: Tensor) -> Tensor:
        """Extrapolates x0 from the last two predictions; see `Solver.step`."""
        sigma, sigma_next = self.sigmas[index : index + 2]
        target = x0
        if self._previous_x0 is not None and sigma_next > 0:
            span = _log_snr(sigma_next) - _log_snr(sigma)
            previous_span = _log_snr(sigma) - _log_snr(self.sigmas[index - 1])
            target = x0 + (x0 - self._previous_x0) * (0.5 * span / previous_span)
        self._previous_x0 = x0
        return _advance(x, target, sigma, sigma_next)


class UniPC:
    """UniPC of order 2 (bh2): the DPM++ 2M step as predictor, and a corrector.

    The corrected sample, not the predicted one that the model saw, is what the next step starts
    from.
    """

    def __init__(self, sigmas: list[float]) -> None:
        self.sigmas = sigmas
        self._predictor = DPMpp(sigmas)
        self._corrected: Tensor | None = None
        self._x0s: list[Tensor] = []
        """The last two predictions, newest last."""

    def step(self, index: int, x0: Tensor, x: Tensor) -> Tensor:
        """Corrects the sample that the model saw, then predicts the next; see `Solver.step`."""
        if self._corrected is not None:
            x = self._correct(index, x0, self._corrected)
        self._corrected = x
        self._x0s = [*self._x0s[-1:], x0]
        return self._predictor.step(index, x0, x)

    def _correct(self, index: int, x0: Tensor, start: Tensor) -> Tensor:
        """Redoes the step from index - 1 with the prediction found at its end.

        The order is that of the predictor in that step: 1 for the first step of a run, else 2.
        """
        sigma_start, sigma = self.sigmas[index - 1 : index + 1]
        x0_start = self._x0s[-1]
        change = x0 - x0_start
        if len(self._x0s) == 1:
            return _advance(start, x0_start + 0.5 * change, sigma_start, sigma)
        earlier = _log_snr(self.sigmas[index - 2]) - _log_snr(sigma_start)
        h = _log_snr(sigma) - _log_snr(sigma_start)
        ratio = earlier / h
        weight_earlier, weight_change = _corrector_weights(h, ratio)
        slope = (self._x0s[-2] - x0_start) * (weight_earlier / ratio)
        return _advance(start, x0_start + slope + weight_change * change, sigma_start, sigma)


def make_solver(name: str, sigmas: Tensor) -> Solver:
    """Returns a fresh solver for one run along `sigmas` [N + 1], a full schedule or a slice.

    Args:
        name: "unipc", "dpm++" or "euler".
        sigmas: strictly falling, within 0..1.

    Raises:
        SettingsError: for an unknown name or a schedule that cannot be solved.
    """
    classes: dict[str, type[UniPC] | type[DPMpp] | type[Euler]] = {
        "unipc": UniPC,
        "dpm++": DPMpp,
        "euler": Euler,
    }
    if name not in classes:
        raise SettingsError(
            f"The solver is unknown. Got {name!r}, need one of {', '.join(SOLVERS)}. Choose one."
        )
    return classes[name](check_sigmas(sigmas))


def model_timestep(solver: str, sigma: float) -> float:
    """Returns the timestep a model is given at `sigma`.

    The official solvers truncate it to an int. Euler keeps the fraction, as the tools that
    distilled models are made with do.
    """
    return sigma * TIMESTEPS if solver == "euler" else official_timestep(sigma)


def solve(
    solver: str,
    velocity_fn: VelocityFn,
    noise: Tensor,
    sigmas: Tensor,
    *,
    on_step: StepCallback | None = None,
) -> Tensor:
    """Integrates a flow model from a noisy sample along a schedule.

    Args:
        solver: "unipc", "dpm++" or "euler".
        velocity_fn: called once per step with (x, sigma, timestep): x in fp32, sigma a float,
            timestep an int for "unipc" and "dpm++", the float sigma * 1000 for "euler".
        noise: sample at sigmas[0], any shape; plain noise where that is 1 or close to it.
        sigmas: strictly falling [N + 1], within 0..1.
        on_step: called after every step with (index, x0, x).

    Returns:
        The sample at sigmas[-1], fp32; for a schedule that ends at 0 this is x0.

    Raises:
        SettingsError: for an unknown solver or a schedule that cannot be solved.
    """
    run = make_solver(solver, sigmas)
    x = noise.float()
    for index, sigma in enumerate(run.sigmas[:-1]):
        velocity = velocity_fn(x, sigma, model_timestep(solver, sigma))
        x0 = x - sigma * velocity.float()
        x = run.step(index, x0, x)
        if on_step is not None:
            on_step(index, x0, x)
    return x


def guide(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Returns uncond + scale * (cond - uncond) in fp32.

    Guidance is linear, so velocities and x0 predictions may be given alike. At scale 1 the result
    is `cond`: the caller can save the unconditional call altogether, which the official code does
    not do.

    Args:
        cond: prediction with the prompt, any float dtype.
        uncond: prediction with the negative prompt, same shape.
        scale: guidance scale, 1 or more in practice.
    """
    uncond = uncond.float()
    return uncond + scale * (cond.float() - uncond)


def _advance(x: Tensor, x0: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """Moves x on the straight line to x0 from noise level sigma to sigma_next."""
    ratio = sigma_next / sigma
    return ratio * x + (1 - ratio) * x0


def _log_snr(sigma: float) -> float:
    """Returns lambda of the papers for sigma in (0, 1]; -inf at 1."""
    return math.log((1 - sigma) / sigma) if sigma < 1 else -math.inf


def _corrector_weights(h: float, ratio: float) -> tuple[float, float]:
    """Solves the order conditions of the bh2 corrector of order 2.

    Two weights are wanted so that constant and linear changes of x0 in lambda are integrated
    exactly: [[1, 1], [ratio, 1]] @ weights = moments.

    Args:
        h: lambda across the step, positive.
        ratio: lambda from the step's start back to the earlier prediction, in units of h;
            negative, -inf if that was made at sigma 1.

    Returns:
        The weights of the earlier prediction and of the change across the step.
    """
    scale = math.expm1(-h)
    moment_0 = -1 / h - 1 / scale
    moment_1 = -2 * moment_0 / h - 1 / scale
    earlier = (moment_0 - moment_1) / (1 - ratio)
    return earlier, moment_0 - earlier
