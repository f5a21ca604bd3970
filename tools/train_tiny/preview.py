"""A look at what the transformers do: generated clips as one contact sheet."""

from pathlib import Path

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from tools.tiny_generate.sample import Guided, sample
from wan_model.config import NEGATIVE_PROMPT, OFFICIAL, TIMESTEPS, Kind

from .config import Recipe
from .data import generator
from .dit import start_from
from .dit_stage import DiTStage
from .files import TrainingFolder
from .latents import LatentMaker
from .runs import TEXT_ENCODER, load_text_encoder, open_dit_stage
from .scenes import prompt_scene, score_prompts
from .text_encoder import encode_text
from .vae import encode, latent_statistics, reconstruct

SHOWN_FRAMES = 6


@torch.no_grad()
def preview(
    stages: tuple[str, ...],
    recipe: Recipe,
    folder: TrainingFolder,
    output: Path,
    *,
    device: torch.device,
    clips: int = 8,
    steps: int = 20,
) -> None:
    """Generates clips of some of the score's prompts and draws them, one row each.

    Args:
        stages: one transformer, or the high-noise and the low-noise expert.
        recipe: the recipe.
        folder: where the weights are.
        output: PNG file.
        device: where to generate.
        clips: rows; prompts are taken evenly from all.
        steps: of the official solver, with the official shift, boundary and guidance.
    """
    models = [open_dit_stage(name, recipe, folder, device) for name in stages]
    for name, model in zip(stages, models, strict=True):
        start_from(model.dit, folder.read_weights(name))
        load_text_encoder(model.text_encoder, folder.read_weights(TEXT_ENCODER))
    prompts = score_prompts()[:: max(1, len(score_prompts()) // clips)][:clips]
    maker = models[0].makers["val"]
    video = maker.clips.render([prompt_scene(prompt) for prompt in prompts])
    latent = generate(models, maker, [prompt.text for prompt in prompts], video, steps)
    mean, std = latent_statistics(maker.vae, device)
    frames = reconstruct(maker.vae, latent * std + mean)
    picked = torch.linspace(0, frames.shape[2] - 1, SHOWN_FRAMES).round().long().to(device)
    sheet = rearrange(frames[:, :, picked], "b c t h w -> (b h) (t w) c")
    pixels = ((sheet.clamp(-1, 1) + 1) * 127.5).to(torch.uint8).cpu().numpy()
    Image.fromarray(pixels).save(output)


def generate(
    models: list[DiTStage], maker: LatentMaker, texts: list[str], video: Tensor, steps: int
) -> Tensor:
    """Returns normalised latents (B, C, T, H, W) of prompts.

    Args:
        models: one, or the high-noise and the low-noise expert, of one kind.
        maker: of that kind.
        texts: B prompts.
        video: (B, 3, T, H, W), whose size counts, and for I2V and TI2V the first frame.
        steps: of the solver.
    """
    kind: Kind = maker.kind
    clean = encode(maker.vae, video)
    cond = None
    if kind == "i2v":
        no_last = torch.zeros(len(video), dtype=torch.bool, device=video.device)
        cond = maker.condition(video, no_last)
    tokens = maker.tokenizer.batch([*texts, *[NEGATIVE_PROMPT] * len(texts)]).to(video.device)
    text = encode_text(models[0].text_encoder, tokens)

    rng = generator(video.device, "preview", TIMESTEPS)
    noise = torch.randn(clean.shape, generator=rng, device=video.device)
    guided = Guided(text=text, cond=cond, first=clean[:, :, :1] if kind == "ti2v" else None)
    return sample((models[0].dit, models[-1].dit), guided, noise, OFFICIAL[kind], steps)
