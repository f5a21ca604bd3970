"""What a checkpoint is, from names, shapes and number formats alone."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal, TypeVar

from ..config import DiTConfig, Kind, VaeConfig
from ..errors import CheckpointError
from ..vae.preview import Family, PreviewVaeConfig
from .checkpoint import Checkpoint, open_checkpoint
from .formats import SCALE, TENSOR_SCALE, check_format, describe_format, shape_of
from .header import TensorEntry, shown
from .keymap import Component, KeyStyle
from .notes import is_note

Expert = Literal["high", "low"]

HEAD_DIM = 128
"""Width of an attention head in every Wan model; shapes do not tell the number of heads."""

KINDS: dict[tuple[int, int], Kind] = {(16, 16): "t2v", (36, 16): "i2v", (48, 48): "ti2v"}
"""By input and output channels."""

VARIANTS = {(5120, 13824, 40): "A14B", (3072, 14336, 30): "5B"}
"""By width, feed-forward width and number of blocks."""


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """Sizes of a umT5 encoder."""

    dim: int
    num_layers: int
    num_heads: int
    vocab_size: int


Config = TypeVar("Config", DiTConfig, VaeConfig, TextEncoderConfig)

CALLED = {
    DiTConfig: "diffusion model",
    VaeConfig: "VAE",
    PreviewVaeConfig: "preview VAE",
    TextEncoderConfig: "text encoder",
}

OTHER_PREVIEW_VAES = {
    "taehv": "HunyuanVideo",
    "taecvx": "CogVideoX",
    "taeos": "Open-Sora",
}
"""By the start of the file name: the model of preview VAEs with the same tensors as Wan's."""


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint holds; nothing but its header was read to know it."""

    path: Path
    component: Component
    config: DiTConfig | VaeConfig | TextEncoderConfig
    kind: Kind | None
    """Of a diffusion model: T2V, I2V or TI2V."""
    variant: str
    """One of "A14B", "5B", "Wan2.1", "Wan2.2", "umT5-xxl", or sizes: "dim 256, 3 layers"."""
    expert: Expert | None
    """Of an A14B-like model: a guess from the file name. The tensors do not tell."""
    format: str
    """Number format of the weights: "fp32", "bf16", "fp16", "fp8", "fp8 scaled", "mixed (...)"."""
    bytes: int
    parameters: int
    key_style: KeyStyle

    @property
    def label(self) -> str:
        """One line for people: "A14B I2V, high noise, fp8 scaled"."""
        if isinstance(self.config, PreviewVaeConfig):
            name = f"{self.config.family} preview VAE for {self.variant}"
            limits = "" if self.config.encoder_dim else ", decoder only"
            return f"{name} ({self.config.z_dim} channels){limits}, {self.format}"
        what = self.kind.upper() if self.kind else CALLED[type(self.config)]
        sized = self.variant.startswith("dim ")
        name = f"{what} ({self.variant})" if sized else f"{self.variant} {what}"
        expert = f", {self.expert} noise" if self.expert else ""
        return f"{name}{expert}, {self.format}"


def detect(path: str | PathLike[str]) -> CheckpointInfo:
    """Describes a checkpoint without loading it.

    Args:
        path: a .safetensors file, a shard or the index of a sharded one, or a folder with one.

    Raises:
        CheckpointError: for a file that is damaged, unsafe, or no part of Wan2.2; it names what
            was found instead.
    """
    return describe(open_checkpoint(path))


def describe(checkpoint: Checkpoint) -> CheckpointInfo:
    """Describes an opened checkpoint.

    Raises:
        CheckpointError: if tensors that the sizes are read from are missing or do not fit
            together, or for an unsupported number format.
    """
    check_format(checkpoint)
    kind: Kind | None = None
    config: DiTConfig | VaeConfig | TextEncoderConfig
    if checkpoint.component == "dit":
        config = _dit_config(checkpoint)
        kind = config.kind
        sizes = (config.dim, config.ffn_dim, config.num_layers)
        variant = VARIANTS.get(sizes, f"dim {config.dim}, {config.num_layers} layers")
    elif checkpoint.component in ("vae", "preview_vae"):
        full = checkpoint.component == "vae"
        config = _vae_config(checkpoint) if full else _preview_vae_config(checkpoint)
        variant = config.variant.capitalize()
    else:
        config = _text_encoder_config(checkpoint)
        xxl = (config.dim, config.num_layers) == (4096, 24)
        variant = "umT5-xxl" if xxl else f"dim {config.dim}, {config.num_layers} layers"
    tensors = checkpoint.tensors
    weights = [
        math.prod(shape_of(tensors, name))
        for name in tensors
        if not is_note(name) and not name.endswith((SCALE, TENSOR_SCALE))
    ]
    return CheckpointInfo(
        path=checkpoint.path,
        component=checkpoint.component,
        config=config,
        kind=kind,
        variant=variant,
        expert=guess_expert(checkpoint.path) if kind in ("t2v", "i2v") else None,
        format=describe_format(tensors),
        bytes=sum(entry.bytes for entry in tensors.values()),
        parameters=sum(weights),
        key_style=checkpoint.style,
    )


def require(info: CheckpointInfo, wanted: type[Config]) -> Config:
    """Returns the sizes of a checkpoint that must be of one component.

    Args:
        info: the checkpoint.
        wanted: the component, by the type of its sizes.

    Raises:
        CheckpointError: says what the file is instead.
    """
    if isinstance(info.config, wanted):
        return info.config
    raise CheckpointError(
        f"{info.path.name} is the wrong kind of file. Got a {CALLED[type(info.config)]} "
        f"({info.label}), need a {CALLED[wanted]}. Choose another file here."
    )


def guess_expert(path: Path) -> Expert | None:
    """Guesses the expert from the words "high" and "low" in the file name, then the folder name.

    In diffusers pipelines the folder `transformer` beside a `transformer_2` is the high-noise one.
    """
    for name in (path.name, path.parent.name):
        spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower()
        words = set(re.findall(r"(?<![a-z])(high|low)(?![a-z])|(high|low)(?=[ _-]?noise)", spaced))
        found = {first or second for first, second in words}
        if len(found) == 1:
            return "high" if found == {"high"} else "low"
        if found:
            return None
    folder = path if path.is_dir() else path.parent
    if (
        folder.name in ("transformer", "transformer_2")
        and (folder.parent / "transformer_2").is_dir()
    ):
        return "high" if folder.name == "transformer" else "low"
    return None


def _shape(checkpoint: Checkpoint, name: str, ndim: int) -> tuple[int, ...]:
    """Returns the shape of a tensor that sizes are read from."""
    if name not in checkpoint.tensors:
        raise CheckpointError(
            f"{checkpoint.path.name} is incomplete. Got no tensor {name}, need a whole "
            "model. Download the file again."
        )
    shape = shape_of(checkpoint.tensors, name)
    if len(shape) != ndim or 0 in shape:
        raise CheckpointError(
            f"{checkpoint.path.name} has a tensor of a wrong shape. Got {list(shape)} for "
            f"{name}, need {ndim} sizes above zero. Choose another version of the model."
        )
    return shape


def _count_blocks(tensors: Mapping[str, TensorEntry], pattern: str) -> int:
    """Returns the highest block number plus one, bounded by the number of tensors."""
    numbers = (re.match(pattern, name) for name in tensors)
    return min(max((int(m[1]) + 1 for m in numbers if m), default=0), len(tensors))


def _dit_config(checkpoint: Checkpoint) -> DiTConfig:
    dim, in_channels, *patch = _shape(checkpoint, "patch_embedding.weight", 5)
    square = _shape(checkpoint, "blocks.0.self_attn.q.weight", 2)
    head = _shape(checkpoint, "head.head.weight", 2)[0]
    channels = (in_channels, head // 4)
    if dim % HEAD_DIM or square != (dim, dim) or patch != [1, 2, 2]:
        raise CheckpointError(
            f"{checkpoint.path.name} is no Wan2.2 diffusion model. Got width {dim}, patch {patch} "
            f"and attention weights {list(square)}, need a width that is a multiple of {HEAD_DIM}, "
            "patch [1, 2, 2] and square attention weights. Choose another file."
        )
    if head % 4 or channels not in KINDS:
        raise CheckpointError(
            f"{checkpoint.path.name} is not a supported Wan model. Got {in_channels} input and "
            f"{head / 4:g} output channels, need 16 and 16 (T2V), 36 and 16 (I2V) or 48 and 48 "
            "(TI2V). Fun control and inpainting models have others; choose another file."
        )
    return DiTConfig(
        dim=dim,
        ffn_dim=_shape(checkpoint, "blocks.0.ffn.0.weight", 2)[0],
        num_heads=_num_heads(checkpoint, dim),
        num_layers=_count_blocks(checkpoint.tensors, r"blocks\.(\d{1,4})\."),
        in_channels=in_channels,
        out_channels=channels[1],
        text_dim=_shape(checkpoint, "text_embedding.0.weight", 2)[1],
        freq_dim=_shape(checkpoint, "time_embedding.0.weight", 2)[1],
    )


def _num_heads(checkpoint: Checkpoint, dim: int) -> int:
    """Returns what config.json in the checkpoint's folder says, or one head per 128 numbers."""
    text = checkpoint.read_config("config.json")
    try:
        fields = json.loads(text) if text else {}
        heads = fields.get("num_attention_heads", fields.get("num_heads", dim // HEAD_DIM))
        if dim % heads == 0 and dim // heads % 2 == 0:
            return int(heads)
    except (ValueError, TypeError, AttributeError, ZeroDivisionError, RecursionError) as error:
        heads = error
    raise CheckpointError(
        f"config.json of {checkpoint.path.name} does not fit. Got {shown(heads)} attention heads, "
        f"need a divisor of the width {dim}. Download config.json again."
    )


def _vae_config(checkpoint: Checkpoint) -> VaeConfig:
    nested = any(name.startswith("decoder.upsamples.0.upsamples.") for name in checkpoint.tensors)
    config = VaeConfig(
        variant="wan2.2" if nested else "wan2.1",
        encoder_dim=_shape(checkpoint, "encoder.conv1.weight", 5)[0],
        decoder_dim=_shape(checkpoint, "decoder.head.0.gamma", 4)[0],
        z_dim=_shape(checkpoint, "conv2.weight", 5)[0],
    )
    if config.z_dim != (48 if nested else 16):
        raise CheckpointError(
            f"{checkpoint.path.name} is not a supported VAE. Got {config.z_dim} latent channels, "
            "need 16 (Wan2.1) or 48 (Wan2.2). Choose another file."
        )
    return config


def _preview_vae_config(checkpoint: Checkpoint) -> PreviewVaeConfig:
    widest, z_dim, *_ = _shape(checkpoint, "decoder.1.weight", 4)
    middle, narrow, last = (
        _shape(checkpoint, f"decoder.{layer}.weight", 4)[0] for layer in (8, 14, 20)
    )
    if z_dim not in (16, 48):
        raise CheckpointError(
            f"{checkpoint.path.name} is a preview VAE of another model. Got {z_dim} latent "
            "channels, need 16 (Wan2.1, for A14B) or 48 (Wan2.2, for 5B). Choose taew2_1, "
            "lighttaew2_1, taew2_2 or lighttaew2_2."
        )
    encodes = any(name.startswith("encoder.") for name in checkpoint.tensors)
    return PreviewVaeConfig(
        variant="wan2.1" if z_dim == 16 else "wan2.2",
        encoder_dim=_shape(checkpoint, "encoder.0.weight", 4)[0] if encodes else 0,
        decoder_dim=last,
        z_dim=z_dim,
        stage_dims=(widest, middle, narrow),
        family=_preview_family(checkpoint),
    )


def _preview_family(checkpoint: Checkpoint) -> Family:
    """Guesses from the file name whose latents a preview VAE takes. The tensors do not tell.

    Where the name says nothing, the number format decides: TAEHV is published in fp16, LightTAE
    in fp32.

    Raises:
        CheckpointError: if the name is that of another model's.
    """
    name = checkpoint.path.name.lower()
    for start, model in OTHER_PREVIEW_VAES.items():
        if name.startswith(start):
            raise CheckpointError(
                f"{checkpoint.path.name} is a preview VAE of another model, to judge by its name. "
                f"Got one of {model}, need one of Wan: taew2_1 or lighttaew2_1 for A14B. Choose "
                "another file, or rename it if the name is wrong."
            )
    if "light" in name or "taew" in name:
        return "LightTAE" if "light" in name else "TAEHV"
    return "TAEHV" if checkpoint.tensors["decoder.1.weight"].dtype == "F16" else "LightTAE"


def _text_encoder_config(checkpoint: Checkpoint) -> TextEncoderConfig:
    if checkpoint.style == "transformers":
        tables = ("shared.weight", "encoder.embed_tokens.weight")
        blocks = r"encoder\.block\.(\d{1,4})\."
        bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    else:
        tables = ("token_embedding.weight",)
        blocks = r"blocks\.(\d{1,4})\."
        bias = "blocks.0.pos_embedding.embedding.weight"
    table = next((name for name in tables if name in checkpoint.tensors), tables[0])
    vocab_size, dim = _shape(checkpoint, table, 2)
    return TextEncoderConfig(
        dim=dim,
        num_layers=_count_blocks(checkpoint.tensors, blocks),
        num_heads=_shape(checkpoint, bias, 2)[1],
        vocab_size=vocab_size,
    )
