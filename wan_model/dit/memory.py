"""How much memory one forward pass needs beside the weights."""

import torch

from ..config import DiTConfig, Precision
from .tokens import RUN_TOKENS

MARGIN = 1.05
"""What the estimate is raised by: running out of memory costs more than a little less residency."""

WORKSPACE_BYTES = 512 << 20
"""Workspace of matrix and attention kernels, a dequantised weight, and the allocator's losses."""


def activation_bytes(
    config: DiTConfig, precision: Precision, batch: int, frames: int, height: int, width: int
) -> int:
    """Estimates the peak of live activations in bytes, without gradients.

    Beside the residual stream these are, at the three possible peaks, q, k, v and what one run's
    projections need; q, k, v and the attended heads; or the attended heads and what one run's
    feed-forward needs. The factors are measured on an H100 (benchmarks/forward.py).

    Args:
        config: sizes of the model.
        precision: number formats of the arithmetic.
        batch: samples in one forward pass.
        frames: latent frames.
        height: latent height.
        width: latent width.
    """
    tokens = frames * ((height + 1) // 2) * ((width + 1) // 2)
    residual = torch.empty(0, dtype=precision.residual_dtype).itemsize
    compute = torch.empty(0, dtype=precision.compute_dtype).itemsize
    hidden = tokens * config.dim * compute
    run = min(tokens, RUN_TOKENS)
    projections = 3 * hidden + run * 24 * config.dim
    feed_forward = hidden + run * (2 * compute * config.ffn_dim + 10 * config.dim)
    peak = tokens * config.dim * residual + max(projections, 4 * hidden, feed_forward)
    return int(batch * peak * MARGIN) + WORKSPACE_BYTES
