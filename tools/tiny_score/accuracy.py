"""How well the scorer reads clips whose truth is known: `python -m tools.tiny_score.accuracy`.

The clips are also made as bad as a small VAE might make them: blurred, noisy, pale.
"""

import argparse
import math
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..train_tiny.scenes import KINDS, Scene, render, sample_rich_scene, sample_scene
from .score import Score, score
from .table import rates


def blurred(video: Tensor, sigma: float) -> Tensor:
    """Blurs every frame of [3, T, H, W] with a Gaussian; sigma in pixels."""
    reach = math.ceil(3 * sigma)
    kernel = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(video.shape[1], 1, 1, -1)
    padded = F.pad(video, (reach,) * 4, mode="replicate")
    rows = F.conv2d(padded, kernel, groups=video.shape[1])
    return F.conv2d(rows, kernel.mT, groups=video.shape[1])


def noisy(video: Tensor, std: float) -> Tensor:
    """Adds Gaussian noise; std in units of the video, whose range is 2."""
    generator = torch.Generator().manual_seed(0)
    return video + std * torch.randn(video.shape, generator=generator)


DAMAGE: dict[str, Callable[[Tensor], Tensor]] = {
    "clean": lambda video: video,
    "blur 1.5": lambda video: blurred(video, 1.5),
    "noise 0.1": lambda video: noisy(video, 0.1),
    "blur 1.5, noise 0.1": lambda video: noisy(blurred(video, 1.5), 0.1),
    "contrast 0.75": lambda video: 0.75 * video,
    "blur 1.5, contrast 0.85, noise 0.1": lambda video: noisy(0.85 * blurred(video, 1.5), 0.1),
}


def truth_score(scene: Scene, damage: str, frames: int = 17) -> Score:
    """Renders a scene, damages it and scores it against its own truth."""
    return score(DAMAGE[damage](render([scene], frames)[0]), scene)


def main() -> None:
    """Prints a table of the shares that are read correctly."""
    parser = argparse.ArgumentParser(prog="python -m tools.tiny_score.accuracy")
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--objects", type=int, choices=(1, 2), default=1)
    parser.add_argument("--camera", action="store_true", help="let the camera move in some clips")
    parser.add_argument("--kind", choices=KINDS[1:], help="clips of this kind of richer scenes")
    options = parser.parse_args()
    scenes = [
        sample_rich_scene(options.seed, n, "val", kind=options.kind)
        if options.kind
        else sample_scene(options.seed, n, "val", objects=options.objects, camera=options.camera)
        for n in range(options.clips)
    ]
    print("| clips | colour | shape | motion | count | kind | ms per clip |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for damage in DAMAGE:
        started = time.perf_counter()
        found = rates([truth_score(scene, damage, options.frames) for scene in scenes])
        shares = (found.colour, found.shape, found.motion, found.count, found.kind)
        elapsed = 1000 * (time.perf_counter() - started) / len(scenes)
        cells = (damage, *(f"{100 * share:.1f} %" for share in shares), f"{elapsed:.0f}")
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
