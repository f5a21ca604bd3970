"""How much memory a VAE needs, and the tiles that make it fit."""

from typing import Literal

import torch

from ..config import VaeConfig
from .tiling import Tiling

Operation = Literal["encode", "decode"]

ELEMENTS_PER_PIXEL = {
    ("wan2.1", "encode"): 30.5,
    ("wan2.1", "decode"): 43.0,
    ("wan2.2", "encode"): 9.2,
    ("wan2.2", "decode"): 15.0,
}
"""Peak of live elements per pixel and unit of width, caches and convolution workspace included.

Measured on an H100 (torch 2.11, bf16 and fp32, 256 x 256 to 1280 x 720), plus 5 %. More than half
of it is the causal cache, so it hardly depends on the number of frames.
"""

UNFUSED_NORM = 1.0 if hasattr(torch.ops.aten, "_fused_rms_norm") else 1.9
"""Growth of the peak where torch (before 2.9) computes an RMS norm in steps, with fp32 copies."""

OVERLAP_PX = 64
TILE_STEP_PX = 64
SMALLEST_TILE_PX = 128


def estimate_peak_bytes(
    config: VaeConfig, operation: Operation, height: int, width: int, dtype: torch.dtype
) -> int:
    """Returns the memory that an untiled pass over one video needs on the device.

    Without the weights, and without the video and the latent themselves.

    Args:
        config: sizes of the VAE.
        operation: "encode" or "decode".
        height: pixels of the video.
        width: likewise.
        dtype: number format of the weights.
    """
    dim = config.encoder_dim if operation == "encode" else config.decoder_dim
    elements = ELEMENTS_PER_PIXEL[config.variant, operation] * dim * height * width
    return int(elements * dtype.itemsize * UNFUSED_NORM)


def choose_tiling(
    config: VaeConfig,
    operation: Operation,
    width: int,
    height: int,
    dtype: torch.dtype,
    free_bytes: int,
) -> Tiling | None:
    """Returns None if whole frames fit into `free_bytes`, otherwise the largest tiles that do.

    The smallest tiles are returned even if they do not fit: whoever runs out of memory with them
    cannot run the VAE at all.

    Args:
        config: sizes of the VAE.
        operation: "encode" or "decode".
        width: pixels of the video.
        height: likewise.
        dtype: number format of the weights.
        free_bytes: memory left on the device beside weights, video and latent.
    """
    if estimate_peak_bytes(config, operation, height, width, dtype) <= free_bytes:
        return None
    tile_px = (max(width, height) - 1) // TILE_STEP_PX * TILE_STEP_PX
    while tile_px > SMALLEST_TILE_PX:
        tile = min(tile_px, height), min(tile_px, width)
        if estimate_peak_bytes(config, operation, *tile, dtype) <= free_bytes:
            break
        tile_px -= TILE_STEP_PX
    return Tiling(max(tile_px, SMALLEST_TILE_PX), OVERLAP_PX)
