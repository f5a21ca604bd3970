"""How much memory a VAE needs, and the tiles that make it fit.

Most of it are the frames that convolutions over time remember, see `cache`. It does not depend on
the number of frames.
"""

from typing import Literal

import torch

from ..config import VaeConfig
from .tiling import Tiling
from .wan_vae import RGB

Operation = Literal["encode", "decode"]

PAST_WIDTHS = {
    ("wan2.1", "encode"): (4, 7, 16, 40),
    ("wan2.1", "decode"): (7, 12, 26, 44),
    ("wan2.2", "encode"): (4, 7, 16, 40),
    ("wan2.2", "decode"): (8, 14, 28, 44),
}
"""Input channels of all convolutions over time but the first, in units of the width, at the full
resolution and at a half, a quarter and an eighth of it."""

FRAME_WIDTHS = {
    ("wan2.1", "encode"): 6.7,
    ("wan2.1", "decode"): 6.9,
    ("wan2.2", "encode"): 8.2,
    ("wan2.2", "decode"): 12.5,
}
"""Channels of all frames that are alive at the peak, in units of the width, as if all had the full
resolution: the input of a residual block, the result of its first convolution, the norm of that and
the window of the second one; second frames of pairs that wait at lower resolutions, and pixels.
Wan2.2 also keeps the input of a stage, and decodes twice the channels in the last one's first."""

PHASE_VALUES = {"wan2.1": 288, "wan2.2": 576}
"""Values of `upsampling_phases` of a decoder's convolutions, in units of the squared width."""

UNFUSED_NORM_WIDTHS = 0.0 if hasattr(torch.ops.aten, "_fused_rms_norm") else 9.0
"""Channels of fp32 copies where torch (before 2.9) computes an RMS norm in steps, at 16 bit."""

WORKSPACE_BYTES = 128 << 20
"""Of cuDNN and cuBLAS. With it the peaks of live tensors measured on an H200 are 2 to 12 % below
the estimate; PyTorch's allocator held up to 8 % more than it (13 % without Triton)."""

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
        dtype: of the weights.
    """
    encodes = operation == "encode"
    dim = config.encoder_dim if encodes else config.decoder_dim
    widths = PAST_WIDTHS[config.variant, operation]
    # Values per pixel of the network, an eighth of whose resolution is that of the latent.
    past = 2 * dim * sum(width / 4**level for level, width in enumerate(widths))
    past += 2 * (RGB * config.patch_size**2 if encodes else config.z_dim / 64)
    frames = dim * (FRAME_WIDTHS[config.variant, operation] + UNFUSED_NORM_WIDTHS)
    values = (past + frames) * height * width / config.patch_size**2
    values += 0 if encodes else PHASE_VALUES[config.variant] * dim**2
    return int(values * dtype.itemsize) + WORKSPACE_BYTES


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
        dtype: of the weights.
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
