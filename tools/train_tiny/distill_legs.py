"""What a student is asked: a step of four, and where the guided teacher is after it.

Shape legend: B trajectories, C latent channels, T latent frames, S text tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import torch
from torch import Tensor

from tools.tiny_generate.sample import Guided, sample_along
from wan_model.config import OFFICIAL, TIMESTEPS, Kind
from wan_model.dit import WanDiT
from wan_model.sampling import shift_sigma

from .data import Batch
from .latents import LatentMaker
from .scenes import Scene

SOLVER = "unipc"


class ToldMaker(LatentMaker):
    """Makes groups of what transformers are told of clips: captions, and for I2V images."""

    def encode(self, number: int, scenes: list[Scene], tokens: Tensor) -> Batch:
        """Returns a group that was described, without the clips themselves."""
        device = self.clips.device
        batch = {"tokens": tokens.to(device)}
        if self.kind == "i2v":
            last_given = self.last_given(number, len(scenes))
            batch["cond"] = self.condition(self.clips.render(scenes), last_given)
        return batch


def only_told(maker: LatentMaker) -> ToldMaker:
    """Returns a maker of the same clips that leaves the clips themselves out."""
    return ToldMaker(**{field.name: getattr(maker, field.name) for field in fields(maker)})


@dataclass(frozen=True)
class Told:
    """What the transformers are told of B clips."""

    text: Tensor
    """fp32 (B, S, text_dim)."""
    negative: Tensor
    """fp32 (1, S, text_dim)."""
    cond: Tensor | None
    """I2V: mask and image channels (B, 20, T, H, W)."""


@dataclass(frozen=True)
class Teacher:
    """The two experts with guidance, and a solver that takes many steps."""

    kind: Kind
    experts: tuple[WanDiT, WanDiT]

    def follow(self, x: Tensor, level: float, following: float, steps: int, told: Told) -> Tensor:
        """Returns where a sample at one noise level is at a lower one.

        The steps between are spread as the official schedule of the kind spreads them.
        """
        shift = OFFICIAL[self.kind].shift
        start, end = (shift_sigma(sigma, 1 / shift) for sigma in (level, following))
        inner = [shift_sigma(start + (end - start) * i / steps, shift) for i in range(1, steps)]
        sigmas = torch.tensor([level, *inner, following])
        text = torch.cat((told.text, told.negative.expand(len(x), -1, -1)))
        guided = Guided(text=text, cond=told.cond)
        return sample_along(self.experts, guided, x, OFFICIAL[self.kind], sigmas, SOLVER)


def student_step(dit: WanDiT, x: Tensor, level: float, following: float, told: Told) -> Tensor:
    """Returns where one Euler step of a student leads."""
    times = torch.full((len(x),), level * TIMESTEPS, device=x.device)
    return x + (following - level) * dit(x, times, told.text, told.cond).float()


def run_student(dit: WanDiT, x: Tensor, levels: Sequence[float], told: Told) -> Tensor:
    """Returns where Euler steps along some levels lead."""
    for level, following in pairwise(levels):
        x = student_step(dit, x, level, following, told)
    return x
