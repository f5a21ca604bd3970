"""How much memory one forward pass needs beside the weights: counted, not fitted."""

from ..config import DiTConfig, Precision
from .tokens import RUN_TOKENS

FP32 = 4
"""Bytes of a value that is computed in fp32, whatever the compute dtype."""

WORKSPACE_BYTES = 128 << 20
"""Of cuBLAS (32 MiB on an H100, as much again where cuBLASLt has its own), and what the allocator
cannot use: it held 70 to 250 MiB more than was alive (benchmarks/block_swap.py, H200)."""


def activation_bytes(
    config: DiTConfig,
    precision: Precision,
    batch: int,
    frames: int,
    height: int,
    width: int,
    attention_copies: float = 0.0,
) -> int:
    """Returns the peak of live activations in bytes, without gradients, stages not compiled.

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
    """
    dim, compute = config.dim, precision.compute_dtype.itemsize
    tokens = frames * ((height + 1) // 2) * ((width + 1) // 2)
    run = min(tokens, RUN_TOKENS)
    hidden = tokens * dim * compute
    text = config.text_len * dim * compute
    per_token_vector = FP32 if config.kind == "ti2v" else 0

    # Residual stream and embedded text.
    always = tokens * dim * precision.residual_dtype.itemsize + text
    # Whole q, k, v; of a run: the modulated input, q, and in `rotate` of k the normed k (4 bytes a
    # value), the first half of the result (2), the other one and its two terms (2 + 4).
    project = 3 * hidden + run * dim * (FP32 + compute + 3 * FP32)
    # q, k, v, copies of them, the attended heads, and the softmax's normalisation.
    attend = int((4 + attention_copies) * hidden) + tokens * config.num_heads * FP32
    # The attended heads, k and v of the text; of a run: q and the attended text, the modulated
    # input, the gate, and the inner values before and after GELU.
    feed_forward = hidden + 2 * text + run * dim * (2 * compute + FP32 + per_token_vector)
    feed_forward += run * config.ffn_dim * 2 * compute
    samples = batch * (always + max(project, attend, feed_forward))

    angles = tokens * config.head_dim * FP32
    # Small videos need less than the largest weight outside the blocks takes in fp32.
    time_projection = 6 * dim * dim * FP32
    return max(samples + angles, time_projection) + WORKSPACE_BYTES
