"""One run of the official solver, with guidance and one or two experts.

Shape legend: B clips, C latent channels, T latent frames, S text tokens.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from wan_model.config import OfficialSettings
from wan_model.dit import WanDiT
from wan_model.sampling import guide, is_high_noise, make_sigmas, solve

SOLVER = "unipc"


@dataclass(frozen=True, kw_only=True)
class Guided:
    """What the transformer is told of B clips."""

    text: Tensor
    """Embeddings fp32 (2 B, S, text_dim): of all prompts, then of all negative prompts."""
    cond: Tensor | None = None
    """I2V: mask and image channels (B, 20, T, H, W)."""
    first: Tensor | None = None
    """TI2V: the given first latent frame (B, C, 1, H, W)."""


class Sampling(Protocol):
    """What of the settings decides the velocity."""

    @property
    def boundary(self) -> float | None:
        """Noise level from which on the first expert runs; none: it always does."""
        ...

    @property
    def cfg_high(self) -> float:
        """Guidance of the first expert; at 1 the negative prompt is left out."""
        ...

    @property
    def cfg_low(self) -> float:
        """Guidance of the second expert."""
        ...


def sample(
    experts: tuple[WanDiT, WanDiT],
    guided: Guided,
    noise: Tensor,
    settings: OfficialSettings,
    steps: int,
) -> Tensor:
    """Returns normalised latents (B, C, T, H, W), made as the official code does.

    Args:
        experts: for high and for low noise; the same one twice for a model that is not split.
        guided: text and images, on the device of the experts.
        noise: fp32 (B, C, T, H, W), on the same device.
        settings: shift, boundary and guidance.
        steps: of the solver.
    """
    sigmas = make_sigmas(SOLVER, steps, settings.shift)
    return sample_along(experts, guided, noise, settings, sigmas, SOLVER)


@dataclass(frozen=True)
class FirstSteps:
    """A model that takes the first steps of high noise."""

    dit: WanDiT
    steps: int
    cfg: float


@torch.no_grad()
def sample_along(
    experts: tuple[WanDiT, WanDiT],
    guided: Guided,
    start: Tensor,
    settings: Sampling,
    sigmas: Tensor,
    solver: str,
    first: FirstSteps | None = None,
) -> Tensor:
    """Returns the samples (B, C, T, H, W) at the end of a schedule.

    A given first frame is what the model sees at every step, with timestep 0, as
    `wan/textimage2video.py` does it.

    Args:
        experts: for high and for low noise; the same one twice for a model that is not split.
        guided: text and images, on the device of the experts.
        start: fp32 (B, C, T, H, W), at the first noise level, on the same device.
        settings: boundary and guidance; without a boundary only the first expert runs.
        sigmas: noise levels.
        solver: as `solve` takes it.
        first: takes its steps in the place of the first expert, as far as that runs.
    """
    levels = sigmas.tolist()
    prompts = guided.text[: len(start)]

    def velocity(x: Tensor, sigma: float, timestep: float) -> Tensor:
        high = not settings.boundary or is_high_noise(sigma, settings.boundary)
        times = torch.full((len(x),), timestep, device=x.device)
        if guided.first is not None:
            x = with_first_frame(x, guided.first)
            times = times.unsqueeze(1).repeat(1, x.shape[2])
            times[:, 0] = 0
        dit, cfg = experts[0 if high else 1], settings.cfg_high if high else settings.cfg_low
        if first is not None and high and sigma in levels[: first.steps]:
            dit, cfg = first.dit, first.cfg
        if cfg == 1:
            return dit(x, times, prompts, guided.cond)
        cond = None if guided.cond is None else twice(guided.cond)
        positive, negative = dit(twice(x), twice(times), guided.text, cond).chunk(2)
        return guide(positive, negative, cfg)

    latent = solve(solver, velocity, start, sigmas)
    return latent if guided.first is None else with_first_frame(latent, guided.first)


def twice(x: Tensor) -> Tensor:
    """Returns a batch that is repeated, for the prompt and for the negative prompt."""
    return torch.cat((x, x))


def with_first_frame(latent: Tensor, first: Tensor) -> Tensor:
    """Returns a copy whose first latent frame is `first`."""
    return torch.cat((first, latent[:, :, 1:]), dim=2)
