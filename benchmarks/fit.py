"""Whether a transformer with random weights fits into a GPU's memory, and how much of it does."""

import torch

from wan_model.attention import resolve
from wan_model.config import DiTConfig, Precision
from wan_model.dit import WanDiT
from wan_model.errors import MemoryLimitError
from wan_model.quant import find

GIB = 2**30
FP32_BYTES = 4
PEER_ACTIVATIONS = 2.0
"""A peer's activations relative to ours. Measured on an H100: 1.4 to 1.9."""


def check_fit(
    config: DiTConfig,
    weight_format: str,
    activation_bytes: int,
    free_bytes: int,
    contestants: int = 1,
) -> None:
    """Refuses models that the GPU's free memory cannot hold.

    Args:
        config: sizes.
        weight_format: of the blocks' weights; all others are fp32.
        activation_bytes: what ours needs beside the weights, for the largest video.
        free_bytes: free memory of the GPU.
        contestants: how many models are there at once. Others than ours need more activations.

    Raises:
        MemoryLimitError: says what fits.
    """
    count, bits = config.num_layers, find(weight_format).format.bits
    inside, outside = weight_bytes(config, weight_format)
    block, weights = inside // count, inside + outside
    activations = activation_bytes * (PEER_ACTIVATIONS if contestants > 1 else 1)
    share = free_bytes / contestants
    if weights + activations <= share:
        return
    fitting = min(count - 1, int((share - outside - activations) // block))
    ways = [f"--layers {fitting} to measure {fitting} of {count} blocks"] if fitting > 0 else []
    if bits == 16 and weights - inside // 2 + activations <= share:
        ways.append("--format fp8")
    each = f"{contestants} models do" if contestants > 1 else "The model does"
    raise MemoryLimitError(
        f"{each} not fit into the GPU's memory. Got {free_bytes / GIB:.1f} GiB, need "
        f"{weights / GIB:.1f} for weights and {activations / GIB:.1f} for the video"
        f"{' each' if contestants > 1 else ''}. Use {' or '.join(ways) or 'a smaller video'}."
    )


def weight_bytes(config: DiTConfig, weight_format: str) -> tuple[int, int]:
    """Returns the bytes of the blocks' weights, all in this format, and of the others, in fp32."""
    with torch.device("meta"):
        model = WanDiT(config, precision=Precision(), attention=resolve("sdpa"))
    inside = sum(parameter.numel() for parameter in model.blocks.parameters())
    outside = sum(parameter.numel() for parameter in model.parameters()) - inside
    return int(inside * find(weight_format).format.bits / 8), outside * FP32_BYTES
