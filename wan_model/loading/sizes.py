"""The sizes of each kind of model, read from names and shapes of its tensors."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..config import DiTConfig, VaeConfig
from ..errors import CheckpointError, RelativeError
from ..quant import PLAIN
from ..vae.preview import Family, PreviewVaeConfig
from .entries import WeightEntry
from .source import shown

DIT_SIZES = {(5120, 13824, 40): "A14B", (3072, 14336, 30): "5B"}
"""By width, feed-forward width and number of blocks."""

HEAD_DIM = 128
"""Width of an attention head in every Wan model; shapes do not tell the number of heads."""

UPSCALING_PIXELS = 12
"""Output channels of a Wan2.1 VAE whose pixels become squares of four."""

OTHER_PREVIEW_VAES = {"taehv": "HunyuanVideo", "taecvx": "CogVideoX", "taeos": "Open-Sora"}
"""By the start of the file name: the model of preview VAEs with the same tensors as Wan's."""


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """Sizes of a umT5 encoder."""

    dim: int
    num_layers: int
    num_heads: int
    vocab_size: int


Config = DiTConfig | VaeConfig | TextEncoderConfig


@dataclass(frozen=True)
class Clues:
    """What sizes are read from."""

    file: str
    """Name of the checkpoint: for messages, and where tensors do not tell."""
    entries: Mapping[str, WeightEntry]
    config_json: str | None
    """Text of config.json in the checkpoint's own folder."""

    def shape(self, name: str, ndim: int) -> tuple[int, ...]:
        """Returns the shape of a tensor.

        Raises:
            CheckpointError: if it is missing or has another number of sides.
        """
        if name not in self.entries:
            raise CheckpointError(
                f"{self.file} is incomplete. Got no tensor {name}, need a whole model. Download "
                "the file again."
            )
        shape = self.entries[name].shape
        if len(shape) != ndim or 0 in shape:
            raise CheckpointError(
                f"{self.file} has a tensor of a wrong shape. Got {list(shape)} for {name}, need "
                f"{ndim} sizes above zero. Choose another version of the model."
            )
        return shape

    def count_blocks(self, pattern: str) -> int:
        """Returns the highest block number plus one, bounded by the number of tensors."""
        numbers = (re.match(pattern, name) for name in self.entries)
        return min(max((int(m[1]) + 1 for m in numbers if m), default=0), len(self.entries))


def variant_of(config: Config) -> str:
    """Returns "A14B", "5B", "Wan2.1", "Wan2.2", "umT5-xxl", or sizes: "dim 256, 3 layers"."""
    if isinstance(config, VaeConfig):
        return config.variant.capitalize()
    known = None
    if isinstance(config, DiTConfig):
        known = DIT_SIZES.get((config.dim, config.ffn_dim, config.num_layers))
    elif (config.dim, config.num_layers) == (4096, 24):
        known = "umT5-xxl"
    return known or f"dim {config.dim}, {config.num_layers} layers"


def dit_config(clues: Clues, kinds: Mapping[tuple[int, int], str]) -> DiTConfig:
    """Returns the sizes of a transformer.

    Args:
        clues: of its checkpoint.
        kinds: what is supported, by input and output channels.

    Raises:
        CheckpointError: for a transformer of another family.
    """
    dim, in_channels, *patch = clues.shape("patch_embedding.weight", 5)
    square = clues.shape("blocks.0.self_attn.q.weight", 2)
    head = clues.shape("head.head.weight", 2)[0]
    channels = (in_channels, head // 4)
    if dim % HEAD_DIM or square != (dim, dim) or patch != [1, 2, 2]:
        raise CheckpointError(
            f"{clues.file} is not a Wan 2.2 diffusion model. Got width {dim}, patch {patch} "
            f"and attention weights {list(square)}, need a width that is a multiple of {HEAD_DIM}, "
            "patch [1, 2, 2] and square attention weights. Choose another file."
        )
    if head % 4 or channels not in kinds:
        known = [f"{inputs} and {outputs} ({name})" for (inputs, outputs), name in kinds.items()]
        raise RelativeError(
            f"{clues.file} is not a supported Wan model. Got {in_channels} input and "
            f"{head / 4:g} output channels, need {', '.join(known[:-1])} or {known[-1]}. Fun "
            "control and inpainting models have others; choose another file."
        )
    freq_dim = clues.shape("time_embedding.0.weight", 2)[1]
    if freq_dim % 2:
        raise CheckpointError(
            f"{clues.file} is not a supported Wan model. Got a time embedding of {freq_dim} "
            "frequencies, need an even number: sines and cosines. Choose another file."
        )
    return DiTConfig(
        dim=dim,
        ffn_dim=clues.shape("blocks.0.ffn.0.weight", 2)[0],
        num_heads=_num_heads(clues, dim),
        num_layers=clues.count_blocks(r"blocks\.(\d{1,4})\."),
        in_channels=in_channels,
        out_channels=channels[1],
        text_dim=clues.shape("text_embedding.0.weight", 2)[1],
        freq_dim=freq_dim,
    )


def _num_heads(clues: Clues, dim: int) -> int:
    """Returns what config.json says, or one head per 128 inputs."""
    try:
        fields = json.loads(clues.config_json) if clues.config_json else {}
        heads = fields.get("num_attention_heads", fields.get("num_heads", dim // HEAD_DIM))
        if type(heads) is int and heads > 0 and dim % heads == 0 and dim // heads % 2 == 0:
            return heads
    except (ValueError, TypeError, AttributeError, ZeroDivisionError, RecursionError) as error:
        heads = error
    raise CheckpointError(
        f"config.json of {clues.file} does not fit. Got {shown(heads)} attention heads, need a "
        f"divisor of the width {dim}. Download config.json again."
    )


def vae_config(clues: Clues) -> VaeConfig:
    """Returns the sizes of a VAE.

    Raises:
        CheckpointError: for a VAE of another family.
    """
    nested = any(name.startswith("decoder.upsamples.0.upsamples.") for name in clues.entries)
    head = clues.entries.get("decoder.head.2.weight")
    if not nested and head is not None and head.shape[:1] == (UPSCALING_PIXELS,):
        raise CheckpointError(
            f"{clues.file} is not a supported VAE. Got a Wan 2.1 VAE that decodes to twice the "
            f"size (upscale2x, {UPSCALING_PIXELS} output channels), need one with 3. Choose "
            "wan_2.1_vae."
        )
    config = VaeConfig(
        variant="wan2.2" if nested else "wan2.1",
        encoder_dim=clues.shape("encoder.conv1.weight", 5)[0],
        decoder_dim=clues.shape("decoder.head.0.gamma", 4)[0],
        z_dim=clues.shape("conv2.weight", 5)[0],
    )
    if config.z_dim != (48 if nested else 16):
        raise CheckpointError(
            f"{clues.file} is not a supported VAE. Got {config.z_dim} latent channels, need 16 "
            "(Wan 2.1) or 48 (Wan 2.2). Choose another file."
        )
    return config


def preview_vae_config(clues: Clues) -> PreviewVaeConfig:
    """Returns the sizes of a preview VAE.

    Raises:
        CheckpointError: for a preview VAE of another model.
    """
    widest, z_dim, *_ = clues.shape("decoder.1.weight", 4)
    middle, narrow, last = (clues.shape(f"decoder.{layer}.weight", 4)[0] for layer in (8, 14, 20))
    if z_dim not in (16, 48):
        raise CheckpointError(
            f"{clues.file} is a preview VAE for a different model. Got {z_dim} latent channels, "
            "need 16 (Wan 2.1, for 14B) or 48 (Wan 2.2, for 5B). Choose taew2_1, lighttaew2_1, "
            "taew2_2 or lighttaew2_2."
        )
    encodes = any(name.startswith("encoder.") for name in clues.entries)
    return PreviewVaeConfig(
        variant="wan2.1" if z_dim == 16 else "wan2.2",
        encoder_dim=clues.shape("encoder.0.weight", 4)[0] if encodes else 0,
        decoder_dim=last,
        z_dim=z_dim,
        stage_dims=(widest, middle, narrow),
        family=_preview_family(clues),
    )


def _preview_family(clues: Clues) -> Family:
    """Guesses from the file name whose latents a preview VAE takes. The tensors do not tell.

    Where the name says nothing, the dtype decides: TAEHV is published in fp16, LightTAE in fp32.

    Raises:
        CheckpointError: if the name is that of another model's.
    """
    name = clues.file.lower()
    for start, model in OTHER_PREVIEW_VAES.items():
        if name.startswith(start):
            raise CheckpointError(
                f"{clues.file} is a preview VAE for a different model, judging by its name. Got "
                f"one of {model}, need one of Wan: taew2_1 or lighttaew2_1 for 14B. Choose another "
                "file, or rename it if the name is wrong."
            )
    if "light" in name or "taew" in name:
        return "LightTAE" if "light" in name else "TAEHV"
    is_fp16 = clues.entries["decoder.1.weight"].format is PLAIN[torch.float16]
    return "TAEHV" if is_fp16 else "LightTAE"


def text_encoder_config(clues: Clues) -> TextEncoderConfig:
    """Returns the sizes of a text encoder."""
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    tables = ("shared.weight", "encoder.embed_tokens.weight")
    table = next((name for name in tables if name in clues.entries), tables[0])
    vocab_size, dim = clues.shape(table, 2)
    return TextEncoderConfig(
        dim=dim,
        num_layers=clues.count_blocks(r"encoder\.block\.(\d{1,4})\."),
        num_heads=clues.shape(bias, 2)[1],
        vocab_size=vocab_size,
    )
