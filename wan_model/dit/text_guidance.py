"""A negative prompt without guidance by a second forward pass: normalized attention guidance.

Every token attends to the negative prompt as well, and what it attended to is moved away from
that ("Normalized Attention Guidance: Universal Negative Guidance for Diffusion Models", Chen et
al. 2025, arXiv 2505.21179). It costs two attentions to text, about a hundredth of a step.

Shape legend: B batch, L tokens of a run, S text tokens, H heads, D head width, C = H * D.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..attention import AttentionFn
from ..errors import SettingsError
from ..kernel_trial import triton_kernels_if_right
from .attention_layers import Attended, TextAttention, TextLayer, attend_to_text

TOLERANCE = 1e-2
"""Most rms error of a trial, whose results are rounded to bf16."""

PART = 1024
"""Tokens at a time, so that fp32 copies of them stay small."""

SMALLEST_NORM = 1e-7
"""Added to a norm that is divided by."""


@dataclass(frozen=True)
class GuidanceSettings:
    """How far tokens are moved.

    Raises:
        SettingsError: if a number is out of its range.
    """

    scale: float = 11.0
    """How far away from the negative prompt before limits; 1: not at all."""
    alpha: float = 0.25
    """Part of the moved result, 0 to 1; the rest is what tokens attended to of the prompt."""
    tau: float = 2.5
    """Largest growth of a token's L1 norm."""

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("scale", self.scale, 1.0, 100.0),
            ("alpha", self.alpha, 0.0, 1.0),
            ("tau", self.tau, 1.0, 100.0),
        ):
            if not low <= value <= high:
                raise SettingsError(
                    f"{name} of the attention guidance is out of range. Got {value:g}, need a "
                    f"number from {low:g} to {high:g}. The usual one is "
                    f"{getattr(type(self), name):g}."
                )


Guide = Callable[[Tensor, Tensor, Tensor, GuidanceSettings], Tensor]
"""(attended to the prompt, to the negative prompt (B, L, C), alpha of each sample (B,), settings)
-> the first moved away from the second, in its place."""


def guide(positive: Tensor, negative: Tensor, alpha: Tensor, settings: GuidanceSettings) -> Tensor:
    """A `Guide` of PyTorch's operations, in fp32 and rounded once."""
    alpha = alpha.view(-1, 1, 1)
    for run in range(0, positive.shape[1], PART):
        part = positive[:, run : run + PART]
        p, n = part.float(), negative[:, run : run + PART].float()
        moved = p * settings.scale - n * (settings.scale - 1)
        norm = moved.abs().sum(-1, keepdim=True)
        most = settings.tau * p.abs().sum(-1, keepdim=True)
        moved *= torch.where(norm > most, most / (norm + SMALLEST_NORM), 1.0)
        part.copy_(moved * alpha + p * (1 - alpha))
    return positive


@dataclass(frozen=True)
class NegativeText:
    """Attention to the prompt, moved away from a negative one: a `TextAttention`."""

    embedded: Tensor
    """The negative prompt (1, S, C) or (B, S, C), in the blocks' compute dtype."""
    alpha: Tensor
    """fp32 (B,): the settings' for samples that are guided, 0 for others."""
    settings: GuidanceSettings
    guide: Guide = guide
    attend_to_prompt: TextAttention = attend_to_text
    """To one prompt, or to several over time."""

    def __call__(self, layer: TextLayer, text: Tensor, attend: AttentionFn) -> Attended:
        """See `TextAttention`."""
        positive = self.attend_to_prompt(layer, text, attend)
        negative = attend_to_text(layer, self.embedded.expand(len(text), -1, -1), attend)

        def attended(q: Tensor, run: slice) -> Tensor:
            p, n = positive(q, run).flatten(-2), negative(q, run).flatten(-2)
            return self.guide(p, n, self.alpha, self.settings).unflatten(-1, q.shape[-2:])

        return attended


def fastest_guide(device: torch.device) -> Guide:
    """Returns Triton's kernel where it gives the right numbers in a trial, otherwise `guide`.

    Args:
        device: the current one, if it is a GPU.
    """
    if device.type != "cuda":
        return guide
    return triton_kernels_if_right(
        make=_triton,
        plain=guide,
        error=lambda one: trial_error(one, device),
        tolerance=TOLERANCE,
        what="Guidance by a negative prompt",
    )


def _triton() -> Guide:
    from .text_guidance_kernel import guide

    return guide


def trial_error(one: Guide, device: torch.device) -> float:
    """Returns the rms error of a guide on a few tokens, relative to PyTorch's numbers."""
    numbers = torch.arange(2 * 3 * 200, device=device)
    positive, negative = numbers.cos(), (numbers * 0.7).sin() * (1 + numbers // 200)
    alpha = torch.tensor([0.25, 0.0], device=device)
    results = []
    for function in (one, guide):
        p, n = (part.view(2, 3, 200).to(torch.bfloat16) for part in (positive, negative))
        results.append(function(p, n, alpha, GuidanceSettings()).float())
    return float((results[0] - results[1]).norm() / results[1].norm())
