"""What the loaders' tiers of speed do to videos, with the tiny T2V experts.

    python benchmarks/speed_tiers.py --limit 7       # 12 min of one core

Prints a JSON line per tier (`| python benchmarks/report.py --show -` makes a table of them): the
forward passes that are left, PSNR of the videos to those of fp32 without a cache (same noise), and
how many prompts come out right. Official solver, steps, shift, boundary and guidance. Matmuls are
those of the tier in bf16 with 8-bit weights, by PyTorch on the CPU. Attention is PyTorch's, since
8-bit kernels need a GPU. A tier with sparse attention has a second line with comfy-kitchen's
reference of it in PyTorch, where that is installed: at any length, though these videos, of 320
tokens in five blocks, are too short for it in the nodes.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.lines import emit
from benchmarks.step_cache import SETTINGS, SHIPPED, Run, generate, share_right
from tools.tiny_generate import decode, load_tiny
from tools.tiny_score import psnr
from tools.train_tiny.scenes import Prompt, score_prompts
from wan_model.attention import SparseSchedule
from wan_model.attention.sol import BACKEND, TAU
from wan_model.dit import BlockFn, BlockInputs, BlockRunner, run_in_order
from wan_model.presets import Tier, tiers
from wan_model.quant import AS_STORED
from wan_model.sampling import StepCacheSettings

WEIGHTS = {True: "fp8", False: AS_STORED}
"""By whether a tier multiplies 8-bit weights as they are."""

SPARSE = BACKEND.name

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def sparse_attention() -> SparseSchedule | None:
    """Returns comfy-kitchen's reference as tiers use it, at any length; None without it."""
    try:
        from comfy_kitchen import sol_attn
    except ImportError:
        return None
    return SparseSchedule(partial(sol_attn, tau=TAU), min_tokens=0)


def runner_of(schedule: SparseSchedule | None, steps: int, step: int) -> BlockRunner:
    """Returns who runs the blocks of a step."""
    if schedule is None:
        return run_in_order

    def run(blocks: Iterable[BlockFn], x: Tensor, inputs: BlockInputs, /) -> Tensor:
        for layer, block in enumerate(blocks):
            x = block(x, replace(inputs, attend=schedule.at(layer, step, steps)))
        return x

    return run


def measure(
    tier: Tier,
    schedule: SparseSchedule | None,
    prompts: Sequence[Prompt],
    exact: Tensor,
    passes: int,
    options: argparse.Namespace,
) -> None:
    """Prints a line of a tier.

    Args:
        tier: whose videos are made.
        schedule: of sparse attention; None: PyTorch's in all steps.
        prompts: one for each video.
        exact: the videos in fp32 without a cache.
        passes: that those took.
        options: precision and steps.
    """
    weights = WEIGHTS[tier.eight_bit]
    wan = load_tiny(SHIPPED, "t2v", dtype=PRECISIONS[options.precision], weights=weights)
    threshold = tier.cache_threshold
    cache = None if threshold is None else StepCacheSettings(threshold=threshold)
    runner_at = partial(runner_of, schedule, options.steps)
    runs = [generate(wan, prompt, cache, options.steps, runner_at) for prompt in prompts]
    videos = _videos(runs)
    decibels = [psnr(a, b) for a, b in zip(videos, exact, strict=True)]
    line = {
        "tier": tier.name,
        "prompts": len(prompts),
        "steps": options.steps,
        "precision": options.precision,
        "weights": weights,
        "attention": "sdpa" if schedule is None else SPARSE,
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
    sparse = sparse_attention()
    for tier in (tiers()[name] for name in options.tiers):
        schedules = [None, *([sparse] if sparse and SPARSE in tier.attention else [])]
        for schedule in schedules:
            measure(tier, schedule, prompts, exact, passes, options)


if __name__ == "__main__":
    main()
