"""How good the tiny Wan2.2 is: clips of the scoring prompts, and clips through its VAE.

Shape legend: B clips, T frames, H x W pixels.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wan_model.vae import WanVae

from ..tiny_generate import FRAMES, SIZE_PX, TinyWan, decode, generate
from ..train_tiny.scenes import Prompt, RichPrompt, prompt_scene, render, sample_scene
from .score import Score, first_frame_psnr, psnr, score
from .table import Rates, rates

BATCH = 8
"""Clips made at once."""

HELD_OUT_SEED = 1
"""Names clips that no training has seen."""

EQUAL_DB = 100.0
"""PSNR of what is equal but for rounding; higher values count as this."""


@dataclass(frozen=True)
class Generated:
    """Clips of some prompts."""

    prompts: tuple[Prompt | RichPrompt, ...]
    videos: Tensor
    """fp32 (B, 3, T, H, W), about [-1, 1], on the CPU."""
    scores: tuple[Score, ...]
    first_frame_db: tuple[float, ...]
    """PSNR of the first frames to what the VAE makes of the images given; empty without."""
    seconds: float
    """To make the videos."""

    @property
    def rates(self) -> Rates:
        """What the scores add up to."""
        return rates(self.scores)


def make_and_score(
    wan: TinyWan,
    prompts: Sequence[Prompt | RichPrompt],
    *,
    with_image: bool,
    steps: int | None = None,
    seed: int = 0,
) -> Generated:
    """Generates one clip of each prompt and reads it.

    Args:
        wan: the models.
        prompts: at least one.
        with_image: give the first frame of a scene that the prompt describes.
        steps: of the solver. None: the official number.
        seed: another one gives other clips.
    """
    start = time.perf_counter()
    videos, first_frame_db = [], []
    for some in _batches(prompts):
        images = first_frames(some, wan.size_px) if with_image else None
        texts = [prompt.text for prompt in some]
        made = decode(wan.vae, generate(wan, texts, images, steps=steps, seed=seed))
        videos.append(made)
        if images is not None:
            kept = decode(wan.vae, wan.vae.encode(images.unsqueeze(2)))[:, :, 0]
            pairs = zip(made, kept, strict=True)
            first_frame_db += [min(first_frame_psnr(*pair), EQUAL_DB) for pair in pairs]
    seconds = time.perf_counter() - start
    return _scored(prompts, torch.cat(videos), tuple(first_frame_db), seconds)


def score_through_vae(vae: WanVae, prompts: Sequence[Prompt | RichPrompt]) -> Generated:
    """Renders a scene for each prompt, encodes and decodes it, and reads that.

    This is as good as a perfect transformer could be with this VAE.
    """
    start = time.perf_counter()
    videos = [
        decode(vae, vae.encode(render([prompt_scene(prompt) for prompt in some], FRAMES, SIZE_PX)))
        for some in _batches(prompts)
    ]
    return _scored(prompts, torch.cat(videos), (), time.perf_counter() - start)


def first_frames(prompts: Sequence[Prompt | RichPrompt], size_px: int = SIZE_PX) -> Tensor:
    """Returns frame 0 of a scene for each prompt, (B, 3, H, W) in [-1, 1]."""
    return render([prompt_scene(prompt) for prompt in prompts], FRAMES, size_px)[:, :, 0]


def reconstruction_db(vae: WanVae, split: str, clips: int) -> list[float]:
    """Returns the PSNR of clips that training has not seen after encoding and decoding.

    Args:
        vae: of either kind.
        split: "val", or "novel" for combinations that training never shows.
        clips: how many.
    """
    values = []
    for numbers in _batches(range(clips)):
        scenes = [sample_scene(HELD_OUT_SEED, number, split) for number in numbers]
        videos = render(scenes, FRAMES, SIZE_PX)
        made = decode(vae, vae.encode(videos))
        values += [psnr(*pair) for pair in zip(made, videos, strict=True)]
    return values


def _scored(
    prompts: Sequence[Prompt | RichPrompt],
    videos: Tensor,
    first_frame_db: tuple[float, ...],
    seconds: float,
) -> Generated:
    scores = tuple(score(video, prompt) for video, prompt in zip(videos, prompts, strict=True))
    return Generated(tuple(prompts), videos, scores, first_frame_db, seconds)


def _batches(items: Sequence) -> Iterator[Sequence]:
    for first in range(0, len(items), BATCH):
        yield items[first : first + BATCH]
