"""How much memory one forward pass needs beside the weights."""

import torch

from ..config import DiTConfig, Precision
from .tokens import RUN_TOKENS


def activation_bytes(
    config: DiTConfig, precision: Precision, batch: int, frames: int, height: int, width: int
) -> int:
    """Estimates the peak of live activations in bytes, without gradients.

    The peak is in self-attention: the residual stream, q, k, v, the attended heads twice (as
    the kernel leaves them and as rows), and one run's temporaries of norms and projections.

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
    whole = tokens * config.dim * (residual + 5 * compute)
    run = min(tokens, RUN_TOKENS) * (6 * config.dim * 4 + 2 * config.ffn_dim * compute)
    return batch * (whole + run)
