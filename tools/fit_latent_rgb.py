"""Fits the preview colours of wan22-tiny's latents: `python -m tools.fit_latent_rgb`.

Least squares from latents to the mean colour of the pixels they stand for, over scenes of the
training data. Prints the tables of `wan_model/vae/tiny_latent_rgb.py`.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from wan_model.loading import load_vae
from wan_model.vae import WanVae

from .train_tiny import scenes

MODELS = Path(__file__).parents[1] / "models" / "vae"
FILES = {16: "wan22-tiny-wan21-vae.safetensors", 48: "wan22-tiny-wan22-vae.safetensors"}
FRAMES = 9
PARTS = {16: {"first frame": slice(0, 1), "others": slice(1, None)}, 48: {"all": slice(None)}}
"""Latent frames that share a map: the 16 channels have other colours in the first one."""


def example(vae: WanVae, seed: int, index: int) -> tuple[Tensor, Tensor]:
    """Returns a clip's latent with a one [T, H, W, C + 1], and its colours [T, H, W, 3]."""
    video = scenes.render([scenes.sample_scene(seed, index)], frames=FRAMES)
    with torch.no_grad():
        latent = vae.encode(video)[0].movedim(0, -1)
    chunks = [video[0, :, :1], *video[0, :, 1:].split(4, 1)]
    frames = torch.stack([chunk.mean(1) for chunk in chunks])
    colours = adaptive_avg_pool2d(frames, latent.shape[1:3]).movedim(1, -1)
    return torch.cat((latent, torch.ones(*latent.shape[:-1], 1)), -1), colours


def joined(examples: list[tuple[Tensor, Tensor]], part: slice) -> tuple[Tensor, Tensor]:
    """Returns the latent pixels [N, C + 1] and colours [N, 3] of a part of all clips."""
    latents, colours = zip(*examples, strict=True)
    return tuple(
        torch.cat([one[part].flatten(0, 2) for one in each]) for each in (latents, colours)
    )  # pyright: ignore[reportReturnType]


def main() -> None:
    """Prints factors with the bias as the last row, and the error on scenes that were not used."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=14)
    options = parser.parse_args()
    for channels, name in FILES.items():
        vae = load_vae(MODELS / name)
        known, unseen = ([example(vae, seed, i) for i in range(options.clips)] for seed in (0, 1))
        for what, part in PARTS[channels].items():
            solution = torch.linalg.lstsq(*joined(known, part)).solution
            latents, colours = joined(unseen, part)
            error = (latents @ solution - colours).pow(2).mean().sqrt()
            sys.stdout.write(f"{channels}, {what}: error {error:.3f} of {colours.std():.3f}\n")
            for row in solution.tolist():
                sys.stdout.write(f"({', '.join(f'{value:.3f}' for value in row)}),\n")


if __name__ == "__main__":
    main()
