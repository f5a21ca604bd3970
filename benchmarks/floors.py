"""What a pass would take if the machine did nothing but what cannot be avoided, at its best rates.

    floor of a forward pass  = max(matmuls / R_matmuls + attention / R_attention, bytes / R_copy)
    floor of a VAE's pass    = operations / R_convolution

Operations are floating-point ones, two per multiply-add: of a forward pass counted by formula, of a
VAE's pass by running the real module on the meta device, at full area since the attention in its
middle does not grow with the area. Bytes are those of the weights. The rates R are measured beside
the pass that they are for, so that the GPU's clock is alike: the fastest of a few shapes that the
model really has. What is computed outside the blocks (0.01 % of A14B's matmuls) is counted as
if it had the blocks' weight format.

A floor is no target: it leaves out norms, rotations, activations and every other byte, and takes
for each matmul the rate of the fastest one.
"""

import math
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.ceilings import ATTENTION, CONVOLUTION, COPY, Rates, attempt, convolution_rate
from benchmarks.fit import weight_bytes
from wan_model.config import PATCH_VALUES, DiTConfig, VaeConfig
from wan_model.quant import find
from wan_model.shapes import latent_frames, video_frames
from wan_model.vae import build_vae
from wan_model.vae.peak_memory import Operation

MODULATION_VECTORS = 6


@dataclass(frozen=True)
class Work:
    """What one forward pass cannot do without."""

    matmuls: int
    """Operations of all matmuls."""
    attention: int
    """Operations of self- and cross-attention, 4 L S dim each."""
    weight_bytes: int


def forward_work(config: DiTConfig, tokens: int, weight_format: str) -> Work:
    """Counts one forward pass of one clip with one timestep, text padded to its full length."""
    dim, text = config.dim, config.text_len
    # Self-attention has q, k, v, o of the tokens; cross-attention q, o, and k, v of the text.
    block = 2 * dim * dim * (6 * tokens + 2 * text) + 2 * 2 * tokens * dim * config.ffn_dim
    patches = 2 * tokens * dim * PATCH_VALUES * (config.in_channels + config.out_channels)
    text_embedding = 2 * text * dim * (config.text_dim + dim)
    time_embedding = 2 * dim * (config.freq_dim + dim + MODULATION_VECTORS * dim)
    return Work(
        matmuls=config.num_layers * block + patches + text_embedding + time_embedding,
        attention=config.num_layers * 4 * tokens * (tokens + text) * dim,
        weight_bytes=sum(weight_bytes(config, weight_format)),
    )


def forward_floor(work: Work, weight_format: str, rates: Rates) -> dict[str, float]:
    """Returns the columns of a forward pass; nothing where a ceiling is missing."""
    matmuls, attention = rates.get(f"{matmuls_in(weight_format)}_tflops"), rates.get(ATTENTION)
    if not matmuls or not attention:
        return {}
    attending = work.attention / attention / 1e12
    reading = work.weight_bytes / rates.get(COPY, math.inf) / 1e9
    floor = max(work.matmuls / matmuls / 1e12 + attending, reading)
    return {"floor_seconds": round(floor, 5), "floor_attention_seconds": round(attending, 5)}


def matmuls_in(weight_format: str) -> str:
    """Returns the format that blocks multiply in; what is only stored in 8 bit is dequantized."""
    found = find(weight_format)
    return found.name if found.kernels else "bf16"


@cache
def vae_floor(
    config: VaeConfig,
    operation: Operation,
    pixels: tuple[int, int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, float]:
    """Returns the columns of a VAE's pass; none where its ceiling cannot be measured.

    Args:
        config: sizes.
        operation: "decode" or "encode".
        pixels: frames, height and width of the video.
        dtype: of weights and activations.
        device: where the pass runs.
    """
    width = config.decoder_dim if operation == "decode" else config.encoder_dim
    trial = partial(convolution_rate, width, pixels, config.patch_size, dtype, device)
    rate = attempt(CONVOLUTION, trial)
    operations = attempt("operations", partial(vae_operations, config, operation, pixels))
    if not rate or not operations:
        return {}
    return {"floor_seconds": round(operations / rate / 1e12, 5), CONVOLUTION: rate}


def vae_operations(config: VaeConfig, operation: Operation, pixels: tuple[int, int, int]) -> int:
    """Counts the operations of all convolutions, and of the attention, of one clip's pass.

    All latent frames after the third have as many.
    """
    frames = latent_frames(pixels[0])
    if frames <= 4:
        return _operations(config, operation, frames, pixels[1:])
    three, four = (_operations(config, operation, count, pixels[1:]) for count in (3, 4))
    return four + (frames - 4) * (four - three)


def _operations(config: VaeConfig, operation: Operation, frames: int, area: tuple[int, int]) -> int:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        vae = build_vae(config)
        if operation == "decode":
            latent_area = (side // config.spatial_stride for side in area)
            vae.decode(torch.empty(1, config.z_dim, frames, *latent_area))
        else:
            vae.encode(torch.empty(1, 3, video_frames(frames), *area))
    return counter.get_total_flops()
