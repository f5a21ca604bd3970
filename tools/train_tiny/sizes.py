"""What the models weigh, and how much arithmetic a training step is; from empty modules."""

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from wan_model.attention import resolve
from wan_model.config import Precision
from wan_model.dit import WanDiT
from wan_model.vae import build_vae

from .config import SHIPPED, Recipe
from .fp8 import fp8_layers
from .text_encoder import build_text_encoder
from .vae import posterior, reconstruct

BF16_BYTES, SCALE_BYTES = 2, 4


@dataclass(frozen=True)
class Size:
    """One shipped file."""

    stage: str
    parameters: int
    file_bytes: int
    """Without header and tokenizer."""


def shipped_sizes(recipe: Recipe) -> list[Size]:
    """Returns the exact number of weights and bytes of every shipped file."""
    sizes = []
    with torch.device("meta"):
        for stage in SHIPPED:
            dit = build_meta_dit(recipe, stage)
            total = _parameters(dit)
            matrices = [layer.weight for layer in fp8_layers(dit).values()]
            fp8 = sum(weight.numel() for weight in matrices)
            scales = sum(len(weight) for weight in matrices) * SCALE_BYTES
            sizes.append(Size(stage, total, fp8 + scales + (total - fp8) * BF16_BYTES))
        modules = {stage: build_vae(vae.model) for stage, vae in recipe.vaes.items()}
        modules["text_encoder"] = build_text_encoder(recipe.text, recipe.text.vocabulary)
    for stage, module in modules.items():
        sizes.append(Size(stage, _parameters(module), _parameters(module) * BF16_BYTES))
    return sizes


def forward_flops(recipe: Recipe, stage: str) -> dict[str, int]:
    """Returns the operations of one forward pass over one whole clip, by part of the stage.

    A training step does about three times as many for every clip of the batch.
    """
    clips = recipe.clips
    with torch.device("meta"):
        side = recipe.dits[stage].size_px if stage in recipe.dits else clips.size_px
        video = torch.empty(1, 3, clips.frames, side, side)
        vae_name = stage if stage in recipe.vaes else recipe.dits[stage].vae
        vae = build_vae(recipe.vaes[vae_name].model)
        with FlopCounterMode(display=False) as encoding:
            latent, _ = posterior(vae, video)
        if stage in recipe.vaes:
            with FlopCounterMode(display=False) as decoding:
                reconstruct(vae, latent)
            return {"encode": encoding.get_total_flops(), "decode": decoding.get_total_flops()}
    dit = build_meta_dit(recipe, stage)
    config = dit.config
    tokens = latent.shape[2] * latent.shape[3] * latent.shape[4] // 4
    weights = sum(layer.weight.numel() for layer in fp8_layers(dit).values())
    text = recipe.text.max_tokens + 1
    # Per token: all linears of the blocks but the text's keys and values, and both attentions.
    text_weights = 2 * config.dim**2 * config.num_layers
    linear = 2 * tokens * (weights - text_weights) + 2 * text * text_weights
    attention = 4 * tokens * (tokens + text) * config.dim * config.num_layers
    return {"transformer": linear + attention, "encode": encoding.get_total_flops()}


def build_meta_dit(recipe: Recipe, stage: str) -> WanDiT:
    """Returns a transformer without memory."""
    config = recipe.dit_config(stage)
    with torch.device("meta"):
        return WanDiT(config, precision=Precision(), attention=resolve("auto"))


def table(recipe: Recipe) -> str:
    """Returns both as text."""
    sizes = shipped_sizes(recipe)
    lines = [
        f"{s.stage:14} {s.parameters:>10,} weights {s.file_bytes / 1e6:7.2f} MB" for s in sizes
    ]
    lines.append(f"{'all':14} {'':>10}         {sum(s.file_bytes for s in sizes) / 1e6:7.2f} MB")
    for stage in (*recipe.vaes, *recipe.dits):
        parts = forward_flops(recipe, stage).items()
        text = ", ".join(f"{name} {flops / 1e9:.1f}" for name, flops in parts)
        lines.append(f"{stage:14} GFLOP of one clip, forward: {text}")
    return "\n".join(lines)


def _parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
