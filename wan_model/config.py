"""What the Wan2.2 models are: sizes read from a checkpoint, and the official settings per kind.

Sources: `wan/configs/*.py` of the official Wan2.2 repository.
"""

from dataclasses import dataclass
from typing import Literal

import torch

Kind = Literal["t2v", "i2v", "ti2v"]

TIMESTEPS = 1000
"""Training timesteps: the model is given t = sigma * 1000."""

PATCH_VALUES = 4
"""Latent values per channel of one token: a patch of 1 x 2 x 2."""

TEXT_LEN = 512
"""Text tokens that every model sees. Shorter prompts are padded with zero vectors, never masked."""


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Sizes of one transformer (one expert). All of them can be read from the tensors of a file."""

    dim: int
    """Hidden width."""
    ffn_dim: int
    num_heads: int
    num_layers: int
    in_channels: int
    """Channels of the patch embedding: noise, and for I2V 4 mask and 16 image channels."""
    out_channels: int
    """Channels of the latent and of the predicted velocity."""
    text_dim: int = 4096
    freq_dim: int = 256
    text_len: int = TEXT_LEN
    eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        """Width of one attention head; 128 in every released model."""
        return self.dim // self.num_heads

    @property
    def cond_channels(self) -> int:
        """Channels of `cond` that `forward` expects; 0 for T2V and TI2V."""
        return self.in_channels - self.out_channels

    @property
    def kind(self) -> Kind:
        """T2V, I2V (has condition channels) or TI2V (48-channel latent)."""
        if self.cond_channels:
            return "i2v"
        return "ti2v" if self.out_channels == 48 else "t2v"


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Dtypes of one transformer's arithmetic.

    Everything outside the blocks, and inside them the norms and the modulation, is computed in
    fp32. `compute_dtype` is that of the blocks' linears and attention, `residual_dtype` that of
    the residual stream. A bf16 residual saves one [tokens, dim] fp32 buffer (1.4 GiB at 720p81)
    and costs three to four times the error (1.2e-2 against 3.5e-3 rms of fp32).
    """

    compute_dtype: torch.dtype = torch.float32
    residual_dtype: torch.dtype = torch.float32


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """Sizes of one VAE. `variant` decides the structure, the widths can be read from a file."""

    variant: Literal["wan2.1", "wan2.2"]
    encoder_dim: int
    """Width of the encoder's first stage: 96 (Wan2.1), 160 (Wan2.2)."""
    decoder_dim: int
    """Width of the decoder's last stage: 96 (Wan2.1), 256 (Wan2.2)."""
    z_dim: int
    """Latent channels: 16 (Wan2.1), 48 (Wan2.2)."""

    @property
    def patch_size(self) -> int:
        """Pixels folded into channels before the encoder, per side: 1 (Wan2.1) or 2 (Wan2.2)."""
        return 2 if self.variant == "wan2.2" else 1

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent pixel, per side: 8 (Wan2.1) or 16 (Wan2.2)."""
        return 8 * self.patch_size


@dataclass(frozen=True, kw_only=True)
class OfficialSettings:
    """The values the official code samples a model kind with."""

    steps: int
    shift: float
    boundary: float | None
    """Expert switch as a fraction of 1000 timesteps; None for a model with one expert."""
    cfg_high: float
    cfg_low: float
    frames: int
    fps: int
    size_multiple: int
    """Pixel width and height must be multiples of this (VAE stride times patch size)."""


OFFICIAL: dict[Kind, OfficialSettings] = {
    "t2v": OfficialSettings(
        steps=40,
        shift=12.0,
        boundary=0.875,
        cfg_high=4.0,
        cfg_low=3.0,
        frames=81,
        fps=16,
        size_multiple=16,
    ),
    "i2v": OfficialSettings(
        steps=40,
        shift=5.0,
        boundary=0.900,
        cfg_high=3.5,
        cfg_low=3.5,
        frames=81,
        fps=16,
        size_multiple=16,
    ),
    "ti2v": OfficialSettings(
        steps=50,
        shift=5.0,
        boundary=None,
        cfg_high=5.0,
        cfg_low=5.0,
        frames=121,
        fps=24,
        size_multiple=32,
    ),
}

NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，"
    "低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，"
    "毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
"""Official negative prompt, used whenever none is given (`wan/configs/shared_config.py`)."""
