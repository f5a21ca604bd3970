"""Training of the transformers: the model, noise levels, and the flow-matching loss.

Shape legend: B batch, T latent frames, L tokens, S text tokens.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wan_model.attention import AttentionFn
from wan_model.config import TEXT_LEN, TIMESTEPS, DiTConfig, Precision
from wan_model.dit import WanDiT
from wan_model.dit.rope import Rotation
from wan_model.dit.timesteps import TimestepRows, sinusoid
from wan_model.dit.wan_dit import TimeEmbedding
from wan_model.quant import Linear
from wan_model.sampling import shift_sigma

from .fp8 import RoundedToFp8, fp8_layers

EMBEDDING_STD = 0.02


class TrainingDiT(WanDiT):
    """The transformer with shortcuts that change nothing but the speed of training."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.known_angles: dict[tuple[int, int, int], Rotation] = {}

    def angles(self, grid: tuple[int, int, int], device: torch.device) -> Rotation:
        """Makes angles once; to copy them from the host would wait for the device."""
        if grid not in self.known_angles:
            self.known_angles[grid] = super().angles(grid, device)
        return self.known_angles[grid]

    def embed_time(self, timestep: Tensor, grid: tuple[int, int, int]) -> TimeEmbedding:
        """Embeds every timestep; to look for equal ones would wait for the device."""
        values = timestep.flatten()
        index = torch.arange(len(values), device=values.device).view(len(timestep), -1)
        if timestep.ndim == 2:
            index = index.repeat_interleave(math.prod(grid) // timestep.shape[1], dim=1)
        embedding = self.time_embedding(sinusoid(values, self.config.freq_dim))
        projected = self.time_projection(embedding).unflatten(1, (6, -1))
        return TimeEmbedding(
            head=TimestepRows(embedding.unsqueeze(1), index), blocks=TimestepRows(projected, index)
        )


def folded_padding(text_len: int) -> AttentionFn:
    """Returns attention for a model whose text is padded to `text_len` instead of 512.

    All padding tokens are alike. So the last one, which always is padding, can stand for those
    left out too, if its weight is multiplied by their number: log(number) added to its score.
    """
    weight = math.log(TEXT_LEN - text_len + 1)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        is_cross = k.shape[1] != q.shape[1]
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        bias = None
        if is_cross:
            bias = F.pad(q.new_zeros(1, 1, 1, text_len - 1), (0, 1), value=weight)
            bias = bias.expand(q.shape[0], q.shape[1], q.shape[2], -1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2)

    return attend


def build_dit(config: DiTConfig, device: torch.device, compute_dtype: torch.dtype) -> TrainingDiT:
    """Returns an untrained transformer with fp32 weights that computes in `compute_dtype`.

    Args:
        config: its `text_len` is that of training: longer than any caption, and not the number of
            video tokens.
        device: where to put it.
        compute_dtype: of the blocks' linears and attention.
    """
    dit = TrainingDiT(
        config,
        precision=Precision(compute_dtype=compute_dtype),
        attention=folded_padding(config.text_len),
    )
    initialise(dit)
    for layer in fp8_layers(dit).values():
        layer.matmul = RoundedToFp8()
    return dit.to(device).requires_grad_(True)


@torch.no_grad()
def initialise(dit: WanDiT) -> None:
    """Fills a transformer as the official code does before training: its output is 0 at first."""
    for name, module in dit.named_modules():
        if isinstance(module, Linear):
            if name.startswith(("text_embedding", "time_embedding")):
                nn.init.normal_(module.weight, std=EMBEDDING_STD)
            else:
                nn.init.xavier_uniform_(module.weight)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    for name, parameter in dit.named_parameters():
        if name.endswith("modulation"):
            nn.init.normal_(parameter, std=dit.config.dim**-0.5)
        elif "norm" in name:
            nn.init.constant_(parameter, float(name.endswith("weight")))
    nn.init.xavier_uniform_(dit.patch_embedding.weight.flatten(1))
    nn.init.zeros_(dit.patch_embedding.bias)
    nn.init.zeros_(dit.head.head.weight)


@torch.no_grad()
def start_from(dit: WanDiT, source: dict[str, Tensor]) -> None:
    """Takes over the weights of another transformer of the family.

    Input channels that it does not have begin at zero weight. What belongs to another latent
    space stays untrained.
    """
    same_latent = len(source["head.head.weight"]) == len(dit.head.head.weight)
    for name, parameter in dit.named_parameters():
        trained = source[name].to(parameter)
        if name == "patch_embedding.weight" and same_latent:
            parameter.zero_()
            parameter[:, : trained.shape[1]] = trained
        elif parameter.shape == trained.shape and (same_latent or name != "head.modulation"):
            parameter.copy_(trained)


def sample_sigmas(
    count: int, sigma_range: tuple[float, float], shift: float, generator: torch.Generator
) -> Tensor:
    """Returns fp32 noise levels (B,): uniform, shifted, on one side of the expert boundary.

    They are spread evenly: one in each of B equal parts of the distribution, in random order.

    Args:
        count: B.
        sigma_range: least and largest level; the largest itself is never drawn.
        shift: as in sampling; above 1 the noisy levels are drawn more often.
        generator: its device is that of the result.
    """
    device = generator.device
    low, high = (shift_sigma(sigma, 1 / shift) for sigma in sigma_range)
    offset = torch.rand(count, generator=generator, device=device)
    order = torch.randperm(count, generator=generator, device=device)
    uniform = low + (high - low) * (order + offset) / count
    sigma = shift * uniform / (1 + (shift - 1) * uniform)
    return sigma.clamp(*sigma_range)


@dataclass(frozen=True)
class Examples:
    """A batch of clean latents with everything the transformer is told of them."""

    latent: Tensor
    """fp32 (B, C, T, H, W)."""
    text: Tensor
    """fp32 (B, S, text_dim)."""
    cond: Tensor | None = None
    """I2V: mask and image channels (B, 20, T, H, W)."""
    given: Tensor | None = None
    """TI2V: bool (B,), whether the first latent frame is given."""


def flow_loss(dit: WanDiT, examples: Examples, sigma: Tensor, noise: Tensor) -> Tensor:
    """Returns the mean squared error of the velocity (B,), over what is to be generated.

    x = (1 - sigma) x0 + sigma noise; the velocity to be predicted is noise - x0. A given first
    frame is clean, has timestep 0, and does not count.

    Args:
        dit: the transformer.
        examples: B of them.
        sigma: noise levels fp32 (B,).
        noise: fp32, shape of the latent.
    """
    x0, level = examples.latent, sigma.view(-1, 1, 1, 1, 1)
    x = (1 - level) * x0 + level * noise
    timestep = sigma * TIMESTEPS
    weight = torch.ones_like(x0[:, :1])
    if examples.given is not None:
        first = torch.zeros_like(weight, dtype=torch.bool)
        first[:, :, 0] = examples.given.view(-1, 1, 1, 1)
        x = torch.where(first, x0, x)
        weight = weight * ~first
        timestep = timestep.unsqueeze(1) * weight[:, 0, :, 0, 0]
    velocity = dit(x, timestep, examples.text, examples.cond)
    error = (velocity.float() - (noise - x0)).square().mean(dim=1, keepdim=True) * weight
    return error.flatten(1).sum(dim=1) / weight.flatten(1).sum(dim=1)


def training_config(config: DiTConfig, max_tokens: int) -> DiTConfig:
    """Returns the sizes of the model in training: its text is padded by one token only."""
    return replace(config, text_len=max_tokens + 1)
