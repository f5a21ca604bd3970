"""How much memory one forward pass needs beside the weights: counted, not fitted."""

from typing import Literal

import torch

from ..config import DiTConfig, Precision
from .tokens import RUN_TOKENS

FP32 = 4
"""Bytes of a value that is computed in fp32, whatever the compute dtype."""

WORKSPACE_BYTES = 128 << 20
"""Of cuBLAS (32 MiB on an H100, as much again where cuBLASLt has its own), and what the allocator
cannot use: it held 70 to 250 MiB more than was alive (benchmarks/block_swap.py, H200)."""


StageKind = Literal["own", "fused", "compiled"]
"""Who does the work between a block's matmuls: PyTorch, Triton's kernels, or its compiler's."""


def activation_bytes(
    config: DiTConfig,
    precision: Precision,
    batch: int,
    frames: int,
    height: int,
    width: int,
    attention_copies: float = 0.0,
    stages: StageKind = "own",
) -> int:
    """Returns the peak of live activations in bytes, without gradients.

    It is the most that is alive at once in `WanDiT.velocity` on a GPU, where the RMS norm is one
    kernel. Not counted are weights dequantized for a matmul, which are gone at the peak of all but
    short videos. A TI2V model is taken to have a timestep per token, as it has for a first image:
    without one it needs 4 bytes less per value of a run of tokens.

    Args:
        config: sizes of the model.
        precision: dtypes of the arithmetic.
        batch: samples in one forward pass.
        frames: latent frames.
        height: latent height.
        width: latent width.
        attention_copies: what 8-bit attention makes of q, k and v, see `Backend.copies`.
        stages: that blocks are run with.
    """
    dim, compute = config.dim, precision.compute_dtype.itemsize
    tokens = frames * ((height + 1) // 2) * ((width + 1) // 2)
    run = min(tokens, RUN_TOKENS)
    hidden = tokens * dim * compute
    text = config.text_len * dim * compute
    per_token_vector = FP32 if config.kind == "ti2v" else 0

    # Residual stream and embedded text.
    always = tokens * dim * precision.residual_dtype.itemsize + text
    # Whole q, k, v, and what stages hold of a run.
    project = 3 * hidden + run * dim * _project_bytes(compute, stages)
    # q, k, v, copies of them, the attended heads, and the softmax's normalisation.
    attend = int((4 + attention_copies) * hidden) + tokens * config.num_heads * FP32
    # The attended heads, k and v of the text, and what stages hold of a run.
    inner = _inner_bytes(config, precision, run, stages)
    if stages == "fused":
        # q and the attended text, the branch, and the normed input in both forms.
        feed_forward = run * dim * (4 * compute + 1) + inner
    else:
        # q and the attended text, the modulated input and the gate.
        feed_forward = run * dim * (2 * compute + FP32 + per_token_vector) + inner
    feed_forward += hidden + 2 * text
    samples = batch * (always + max(project, attend, feed_forward))

    angles = tokens * config.head_dim * FP32
    # Small videos need less than the largest weight outside the blocks takes in fp32.
    time_projection = 6 * dim * dim * FP32
    return max(samples + angles, time_projection) + WORKSPACE_BYTES


def _project_bytes(compute: int, stages: StageKind) -> int:
    """Returns the bytes per value of a run that exist beside q, k and v when those are made."""
    if stages == "own":
        # The modulated input (fp32), q, and in `rotate` of k the normed k (fp32), the first half
        # of the result, the other one and its two terms.
        return FP32 + compute + 3 * FP32
    if stages == "fused":
        # The normed input as values and as codes, and a linear's result.
        return 2 * compute + 1
    # The normed input, and the linears' results, none of which is in its place yet.
    return 4 * compute


def _inner_bytes(config: DiTConfig, precision: Precision, run: int, stages: StageKind) -> int:
    """Returns the bytes of the feed-forward's inner values of a run."""
    compute = precision.compute_dtype.itemsize
    values = run * config.ffn_dim * compute
    if stages != "fused" or precision.compute_dtype != torch.bfloat16:
        # Before and after GELU.
        return 2 * values
    # GELU takes the place of its input or writes codes beside it. If weights are dequantized for
    # their matmul, one of them exists as the values are made.
    return values + max(run * config.ffn_dim, config.dim * config.ffn_dim * compute)
