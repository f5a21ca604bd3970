"""What the step caches skip, and what that does to videos, with the tiny T2V experts.

    python benchmarks/step_cache.py                           # 3 min, 2 cores
    python benchmarks/step_cache.py --methods easycache --thresholds 0.02 0.05 0.1 --limit 8

Prints a JSON line per method and threshold (`| python benchmarks/report.py --show -` makes a table
of them): forward passes that are left (conditional and
unconditional ones count alike), PSNR of the final latent and of the video to the run without a
cache (same noise; the peak is the range of the latent without a cache), and how many prompts come
out right. Official solver, steps, shift, boundary and guidance. A toy says how methods compare, not
how far thresholds can go at full size, where neighbouring steps are more alike.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.lines import emit
from tools.tiny_generate import TinyWan, clip_noise, decode, load_tiny
from tools.tiny_score import Score, psnr, rates, score
from tools.train_tiny.scenes import Prompt, score_prompts
from wan_model.config import NEGATIVE_PROMPT, OFFICIAL
from wan_model.dit import BlockRunner, run_in_order
from wan_model.sampling import (
    Prediction,
    StepCache,
    StepCacheSettings,
    guide,
    is_high_noise,
    make_sigmas,
    solve,
)

SHIPPED = Path(__file__).parents[1] / "models"
SHAPE = (16, 5, 16, 16)
SOLVER = "unipc"
SETTINGS = OFFICIAL["t2v"]


@dataclass
class Run:
    """One clip."""

    latent: Tensor
    passes: int
    """Forward passes of one conditioning."""


@torch.no_grad()
def generate(
    wan: TinyWan,
    prompt: Prompt,
    cache: StepCacheSettings | None,
    steps: int,
    runner_at: Callable[[int], BlockRunner] = lambda _: run_in_order,
) -> Run:
    """Makes one clip, with a cache for each expert as the nodes do.

    Args:
        wan: the models.
        prompt: what is to be seen.
        cache: of either expert, if any.
        steps: of the run.
        runner_at: from a step, counted from 0, to who runs its blocks.
    """
    text = wan.encode_prompts([prompt.text, NEGATIVE_PROMPT])
    sigmas = make_sigmas(SOLVER, steps, SETTINGS.shift)
    scales = (SETTINGS.cfg_high, SETTINGS.cfg_low)
    levels = sigmas.tolist()
    caches = [cache and StepCache(cache, levels, scale) for scale in scales]
    run = Run(torch.empty(0), 0)

    def velocity(x: Tensor, sigma: float, timestep: float) -> Tensor:
        expert = 0 if is_high_noise(sigma, SETTINGS.boundary or 0.0) else 1

        def evaluate(with_uncond: bool) -> Prediction:
            count = 2 if with_uncond else 1
            run.passes += count
            times = torch.full((count,), timestep)
            runner = runner_at(levels.index(sigma))
            latents = x.repeat(count, 1, 1, 1, 1)
            out = wan.experts[expert](latents, times, text[:count], run_blocks=runner)
            x0 = x - sigma * out
            return Prediction(x0[:1], x0[1:] if with_uncond else None)

        cached = caches[expert]
        found = cached.predict(x, sigma, evaluate) if cached else evaluate(True)
        assert found.uncond is not None
        positive, negative = ((x - part) / sigma for part in (found.cond, found.uncond))
        return guide(positive, negative, scales[expert])

    noise = clip_noise(prompt.text, 0, SHAPE).unsqueeze(0)
    run.latent = solve(SOLVER, velocity, noise, sigmas)
    return run


def latent_psnr(latent: Tensor, reference: Tensor) -> float:
    """Returns dB relative to the range of the reference."""
    error = (latent - reference).square().mean()
    return float(20 * (reference.max() - reference.min()).log10() - 10 * error.log10())


def compare(
    wan: TinyWan, prompts: Sequence[Prompt], caches: Sequence[StepCacheSettings], steps: int
) -> None:
    """Prints a line without a cache, and one for each cache."""
    plain = [generate(wan, prompt, None, steps) for prompt in prompts]
    videos = decode(wan.vae, torch.cat([run.latent for run in plain]))
    about = {"prompts": len(prompts), "cache": "none", "passes": 1.0}
    emit("step_cache", {**about, "all_right": share_right(videos, prompts)})
    for cache in caches:
        runs = [generate(wan, prompt, cache, steps) for prompt in prompts]
        found = decode(wan.vae, torch.cat([run.latent for run in runs]))
        decibels = [latent_psnr(a.latent, b.latent) for a, b in zip(runs, plain, strict=True)]
        video = [psnr(a, b) for a, b in zip(found, videos, strict=True)]
        left = sum(run.passes for run in runs) / sum(run.passes for run in plain)
        line = {
            "prompts": len(prompts),
            "cache": cache.method,
            "threshold": cache.threshold or "own",
            "passes": round(left, 4),
            "latent_db": round(sum(decibels) / len(decibels), 2),
            "latent_db_min": round(min(decibels), 2),
            "video_db": round(sum(video) / len(video), 2),
            "all_right": share_right(found, prompts),
        }
        emit("step_cache", line)


def share_right(videos: Tensor, prompts: Sequence[Prompt]) -> float:
    """Returns the share of clips in which everything is right."""
    scores: list[Score] = [score(v, p) for v, p in zip(videos, prompts, strict=True)]
    return round(rates(scores).all, 4)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    methods = ["easycache", "magcache", "cfg", "auto"]
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods)
    parser.add_argument("--thresholds", nargs="+", type=float, default=[0.0])
    parser.add_argument("--limit", type=int, default=14, help="prompts, evenly from all 56")
    parser.add_argument("--steps", type=int, default=SETTINGS.steps, help="the official number")
    options = parser.parse_args()
    every = score_prompts()
    prompts = [every[n * len(every) // options.limit] for n in range(options.limit)]
    caches = [
        StepCacheSettings(method=method, threshold=threshold)
        for method in options.methods
        for threshold in options.thresholds
    ]
    compare(load_tiny(SHIPPED, "t2v"), prompts, caches, options.steps)


if __name__ == "__main__":
    main()
