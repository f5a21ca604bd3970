"""What the loaders' tiers of speed do to videos, with the tiny T2V experts.

    python benchmarks/speed_tiers.py                 # 5 min, 2 cores

Prints a JSON line per tier (`| python benchmarks/report.py --show -` makes a table of them): the
forward passes that are left, PSNR of the videos to those of fp32 without a cache (same noise), and
how many prompts come out right. Official solver, steps, shift, boundary and guidance. Matmuls are
those of the tier in bf16 with 8-bit weights; attention is PyTorch's in all of them: 8-bit and
sparse kernels need a GPU, and pass by videos as short as these anyway.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.lines import emit
from benchmarks.step_cache import SETTINGS, SHIPPED, Run, generate, share_right
from tools.tiny_generate import decode, load_tiny
from tools.tiny_score import psnr
from tools.train_tiny.scenes import Prompt, score_prompts
from wan_model.presets import Tier, tiers
from wan_model.quant import AS_STORED
from wan_model.sampling import StepCacheSettings

WEIGHTS = {True: "fp8", False: AS_STORED}
"""By whether a tier multiplies 8-bit weights as they are."""

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def measure(
    tier: Tier,
    prompts: Sequence[Prompt],
    exact: Tensor,
    passes: int,
    options: argparse.Namespace,
) -> None:
    """Prints the line of a tier.

    Args:
        tier: whose videos are made.
        prompts: one for each video.
        exact: the videos in fp32 without a cache.
        passes: that those took.
        options: precision and steps.
    """
    weights = WEIGHTS[tier.eight_bit]
    wan = load_tiny(SHIPPED, "t2v", dtype=PRECISIONS[options.precision], weights=weights)
    threshold = tier.cache_threshold
    cache = None if threshold is None else StepCacheSettings(threshold=threshold)
    runs = [generate(wan, prompt, cache, options.steps) for prompt in prompts]
    videos = _videos(runs)
    decibels = [psnr(a, b) for a, b in zip(videos, exact, strict=True)]
    line = {
        "tier": tier.name,
        "prompts": len(prompts),
        "steps": options.steps,
        "precision": options.precision,
        "weights": weights,
        "cache": "none" if threshold is None else threshold or "own",
        "passes": round(sum(run.passes for run in runs) / passes, 4),
        "to_fp32_db": round(sum(decibels) / len(decibels), 2),
        "to_fp32_db_min": round(min(decibels), 2),
        "all_right": share_right(videos, prompts),
    }
    emit("speed_tiers", line)


def _videos(runs: Sequence[Run]) -> Tensor:
    """Returns the clips, all decoded by the VAE in fp32."""
    vae = load_tiny(SHIPPED, "t2v").vae
    return decode(vae, torch.cat([run.latent.float() for run in runs]))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiers", nargs="+", choices=list(tiers()), default=list(tiers()))
    parser.add_argument("--limit", type=int, default=14, help="prompts, evenly from all 56")
    parser.add_argument("--steps", type=int, default=SETTINGS.steps, help="the official number")
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16", help="beside 8 bit")
    options = parser.parse_args()
    every = score_prompts()
    prompts = [every[n * len(every) // options.limit] for n in range(options.limit)]
    wan = load_tiny(SHIPPED, "t2v")
    plain = [generate(wan, prompt, None, options.steps) for prompt in prompts]
    exact, passes = _videos(plain), sum(run.passes for run in plain)
    for name in options.tiers:
        measure(tiers()[name], prompts, exact, passes, options)


if __name__ == "__main__":
    main()
