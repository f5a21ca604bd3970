"""A smooth velocity field with a known solution, to try step caches on.

The data are independent Gaussians of mean m and deviation c per value, so everything about the
flow x = (1 - s) x0 + s n is known: with var(s) = (1 - s)^2 c^2 + s^2,

    E[x0 | x] = m + (1 - s) c^2 / var * (x - (1 - s) m),
    x(0) = m + c * x(1) along the flow from noise x(1) at s = 1.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wan_model.sampling import Prediction, StepCache, guide, make_sigmas, make_solver

SHAPE = (1, 4, 3, 6, 8)
SHIFT = 5.0


def smooth(seed: int) -> Tensor:
    """Returns seeded normal values [1, 4, 3, 6, 8]."""
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


@dataclass
class GaussianModel:
    """Predicts x0 for a prompt, and counts its calls."""

    mean: Tensor
    deviation: Tensor
    calls: list[float] = field(default_factory=list)
    """Sigmas it was called at."""

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        self.calls.append(sigma)
        keep = (1 - sigma) * self.deviation**2
        total = (1 - sigma) * keep + sigma**2
        return self.mean + keep / total * (x - (1 - sigma) * self.mean)

    def solution(self, noise: Tensor) -> Tensor:
        """Returns the exact x0 that noise [shape of mean] flows to."""
        return self.mean + self.deviation * noise


def make_model(seed: int) -> GaussianModel:
    """Returns a model of its own mean and deviations between 0.3 and 1."""
    return GaussianModel(smooth(seed), 0.3 + 0.7 * torch.sigmoid(smooth(seed + 1)))


def prompts() -> tuple[GaussianModel, GaussianModel]:
    """Returns models of a positive and a negative prompt, alike as such are."""
    cond = make_model(0)
    return cond, GaussianModel(cond.mean + 0.2 * smooth(5), cond.deviation)


def run(
    cache: Callable[[float], StepCache | None],
    cond: GaussianModel,
    uncond: GaussianModel | None = None,
    *,
    solver: str = "euler",
    steps: int = 40,
    scale: float = 1.0,
    swap: bool = False,
) -> Tensor:
    """Samples from noise of seed 9.

    Args:
        cache: the cache of a sigma, None for none.
        cond: model of the positive prompt.
        uncond: model of the negative prompt.
        solver: official solver.
        steps: steps of the run.
        scale: guidance scale.
        swap: whether the negative prompt is computed first.
    """
    x = smooth(9)
    solve = make_solver(solver, make_sigmas(solver, steps, SHIFT))
    for index, sigma in enumerate(solve.sigmas[:-1]):

        def evaluate(with_uncond: bool, x: Tensor = x, sigma: float = sigma) -> Prediction:
            negative = uncond if with_uncond else None
            first = negative(x, sigma) if swap and negative else None
            positive = cond(x, sigma)
            return Prediction(positive, negative(x, sigma) if negative and not swap else first)

        used = cache(sigma)
        found = evaluate(True) if used is None else used.predict(x, sigma, evaluate)
        x0 = found.cond if found.uncond is None else guide(found.cond, found.uncond, scale)
        x = solve.step(index, x0, x)
    return x


def relative(a: Tensor, b: Tensor) -> float:
    """Returns the rms difference over the rms of b."""
    return ((a - b).norm() / b.norm()).item()
