"""Other implementations of Wan2.2, with the same random weights and inputs as ours.

ComfyUI comes from the source tree that the environment variable COMFYUI_PATH names, set up as it
is without arguments; diffusers from its package. Both are imported when they are asked for, in a
process of their own: ComfyUI changes settings of torch as it is imported.

A peer computes in its own way: ComfyUI all in bf16 (the patch embedding in fp32), diffusers as its
`from_pretrained(torch_dtype=torch.bfloat16)` has it.
"""

import importlib
import os
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wan_model.config import DiTConfig, VaeConfig
from wan_model.errors import BackendError
from wan_model.loading.keymap import dit_name, vae21_name, vae22_name

Module = TypeVar("Module", bound=nn.Module)

Peer = Literal["comfyui", "diffusers"]
PEERS: tuple[Peer, ...] = ("comfyui", "diffusers")

FP8_STORAGE = "fp8 storage"


@dataclass(frozen=True)
class Built:
    """A peer's model, ready to be measured."""

    label: str
    """Name and version."""
    attention: str
    run: Callable[..., Tensor]
    """Transformer: latent, timestep and text (B, S <= 512, text_dim) to velocity, fp32. VAE: latent
    in the decoder's own numbers to video, fp32 in host memory, as ComfyUI's VAE nodes have it."""
    encode: Callable[[Tensor], Tensor] | None = None
    """VAE: video (B, 3, T, H, W) fp32 in host memory to latent, likewise."""


def random_value(name: str, shape: torch.Size, device: torch.device) -> Tensor:
    """Returns a weight of official name, fp32, the same in every model: seeded by its name.

    The scale keeps activations near unit size.
    """
    generator = torch.Generator(device).manual_seed(zlib.crc32(name.encode()))
    value = torch.randn(shape, generator=generator, device=device)
    leaf = name.rpartition(".")[2]
    if leaf == "gamma" or ("norm" in name and leaf == "weight"):
        return 1 + 0.1 * value
    return value.mul_(0.3 if leaf == "modulation" else (shape[1:].numel() or 400) ** -0.5)


def fill(module: Module, official: Callable[[str], str] = str) -> Module:
    """Fills a model in place and returns it, without gradients.

    Args:
        module: parameters on their device, in the format that they are to have.
        official: from the module's names to the official ones.
    """
    for name, parameter in module.named_parameters():
        shape = parameter.shape
        parameter.data.copy_(random_value(official(name), shape, parameter.device))
    return module.eval().requires_grad_(False)


def build_dit(peer: Peer, config: DiTConfig, weight_format: str, device: torch.device) -> Built:
    """Returns a peer's transformer.

    Args:
        peer: which one.
        config: sizes.
        weight_format: "bf16"; "fp8": ComfyUI's fp8 matmuls of weights without scales, which
            its weight_dtype fp8_e4m3fn_fast or `--fast fp8_matrix_mult` choose; "fp8 storage":
            as it loads published fp8 files, dequantized before 16-bit matmuls.
        device: where it is built and run.

    Raises:
        BackendError: if the peer is not there or does not have this format.
    """
    formats = ("bf16", "fp8", FP8_STORAGE) if peer == "comfyui" else ("bf16",)
    if weight_format not in formats:
        raise BackendError(
            f"{peer} cannot be compared in this format. Got {weight_format!r}, need one of "
            f"{', '.join(formats)}. Choose another --format."
        )
    if peer == "comfyui":
        return _comfyui_dit(config, weight_format, device)
    return _diffusers_dit(config, device)


def build_vae(peer: Peer, config: VaeConfig, dtype: torch.dtype, device: torch.device) -> Built:
    """Returns a peer's VAE.

    Args:
        peer: which one.
        config: sizes; diffusers has the official ones only.
        dtype: of its weights and of what it computes.
        device: where it is built and run.

    Raises:
        BackendError: if the peer is not there.
    """
    return (_comfyui_vae if peer == "comfyui" else _diffusers_vae)(config, dtype, device)


def _comfyui_dit(config: DiTConfig, weight_format: str, device: torch.device) -> Built:
    label = import_comfyui(device)
    ops = importlib.import_module("comfy.ops")
    fast = weight_format == "fp8"
    operations = ops.fp8_ops if fast else ops.disable_weight_init
    if weight_format == FP8_STORAGE:
        fp8 = torch.float8_e4m3fn
        operations = ops.scaled_fp8_ops(fp8_matrix_mult=False, override_dtype=fp8)
    model = importlib.import_module("comfy.ldm.wan.model").WanModel(
        model_type="t2v",  # also of Wan2.2's I2V, which has no image embedding
        in_dim=config.in_channels,
        out_dim=config.out_channels,
        dim=config.dim,
        ffn_dim=config.ffn_dim,
        num_heads=config.num_heads,
        num_layers=config.num_layers,
        text_dim=config.text_dim,
        device=device,
        dtype=torch.float8_e4m3fn if fast else torch.bfloat16,
        operations=operations,
    )
    fill(model)
    if weight_format == FP8_STORAGE:
        _fill_scaled(model)
    if fast:
        _check_fp8_matmuls(ops, model.blocks[0].self_attn.q)
    attention = importlib.import_module("comfy.ldm.modules.attention").optimized_attention

    def predict(latent: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        return model(latent.bfloat16(), timestep, padded(text, config).bfloat16()).float()

    return Built(label, attention.__name__, predict)


def _fill_scaled(model: nn.Module) -> None:
    """Fills weights that have a scale, so that their largest value is fp8's."""
    for name, layer in model.named_modules():
        scale = layer._parameters.get("scale_weight")
        if scale is not None:
            weight = layer.get_parameter("weight")
            value = random_value(f"{name}.weight", weight.shape, weight.device)
            scale.data = value.abs().amax() / torch.finfo(weight.dtype).max
            weight.data.copy_(value / scale)


def _check_fp8_matmuls(ops: ModuleType, layer: nn.Module) -> None:
    """Refuses fp8 matmuls that ComfyUI would quietly replace by bf16 ones."""
    x = torch.randn(1, 16, layer.weight.shape[1], device=layer.weight.device)  # type: ignore[union-attr]
    try:
        ops.fp8_linear(layer, x.bfloat16())
    except (RuntimeError, ValueError) as error:
        raise BackendError(f"ComfyUI's fp8 matmuls do not run here: {error}") from error


def _comfyui_vae(config: VaeConfig, dtype: torch.dtype, device: torch.device) -> Built:
    label = import_comfyui(device)
    name = "vae2_2" if config.variant == "wan2.2" else "vae"
    # What ComfyUI's VAE loader gives its class; the decoder's width of 2.2 is that class's own.
    sizes = {"dim": config.encoder_dim, "z_dim": config.z_dim}
    if config.variant == "wan2.2":
        sizes["dec_dim"] = config.decoder_dim
    kind = importlib.import_module(f"comfy.ldm.wan.{name}").WanVAE
    with device:
        model = kind(temperal_downsample=[False, True, True], **sizes)
    model = fill(model).to(dtype)

    def decode(latent: Tensor) -> Tensor:
        return model.decode(latent.to(dtype)).to("cpu").float()

    def encode(video: Tensor) -> Tensor:
        return model.encode(video.to(device).to(dtype)).to("cpu").float()

    return Built(label, "", decode, encode)


def _diffusers_vae(config: VaeConfig, dtype: torch.dtype, device: torch.device) -> Built:
    label, kind = _diffusers("AutoencoderKLWan")
    sizes: dict[str, Any] = {"base_dim": config.encoder_dim}
    if config.variant == "wan2.2":
        sizes |= {
            "decoder_base_dim": config.decoder_dim,
            "z_dim": config.z_dim,
            "in_channels": 12,
            "out_channels": 12,
            "patch_size": 2,
            "is_residual": True,
            "scale_factor_spatial": 16,
        }
    with device:
        model = kind(**sizes)
    model = fill(model, vae22_name if config.variant == "wan2.2" else vae21_name).to(dtype)

    def decode(latent: Tensor) -> Tensor:
        return model.decode(latent.to(dtype), return_dict=False)[0].to("cpu").float()

    def encode(video: Tensor) -> Tensor:
        found = model.encode(video.to(device).to(dtype), return_dict=False)[0]
        return found.mode().to("cpu").float()

    return Built(label, "", decode, encode)


def _diffusers_dit(config: DiTConfig, device: torch.device) -> Built:
    label, kind = _diffusers("WanTransformer3DModel")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = kind(
                num_attention_heads=config.num_heads,
                attention_head_dim=config.head_dim,
                in_channels=config.in_channels,
                out_channels=config.out_channels,
                text_dim=config.text_dim,
                freq_dim=config.freq_dim,
                ffn_dim=config.ffn_dim,
                num_layers=config.num_layers,
            )
    finally:
        torch.set_default_dtype(before)
    kept = set(kind._keep_in_fp32_modules)
    for name, parameter in model.named_parameters():
        if kept & set(name.split(".")):
            parameter.data = parameter.data.float()
    fill(model, dit_name)

    def predict(latent: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        text = padded(text, config).bfloat16()
        return model(latent.bfloat16(), timestep, text, return_dict=False)[0].float()

    return Built(label, "sdpa", predict)


def _diffusers(kind: str) -> tuple[str, Any]:
    """Returns diffusers with its version, and a class of it."""
    try:
        found = getattr(importlib.import_module("diffusers"), kind)
    except (ImportError, RuntimeError) as error:  # it wraps the former in the latter
        reason = str(error).splitlines()[0]
        raise BackendError(f"diffusers cannot be imported ({reason}). Install it.") from error
    return f"diffusers {version('diffusers')}", found


def padded(text: Tensor, config: DiTConfig) -> Tensor:
    """Returns text of the length that peers expect, as their text encoders give it."""
    return F.pad(text, (0, 0, 0, config.text_len - text.shape[1]))


def import_comfyui(device: torch.device) -> str:
    """Makes ComfyUI's packages importable and returns its name with version.

    Raises:
        BackendError: if COMFYUI_PATH names no ComfyUI, or its requirements are not installed.
    """
    root = Path(os.environ.get("COMFYUI_PATH", ""))
    if not (root / "comfyui_version.py").is_file():
        raise BackendError(
            f"There is no ComfyUI to compare with. Got COMFYUI_PATH={str(root)!r}, need its source "
            "tree. Set the environment variable."
        )
    # First, so that no module of ours hides one of ComfyUI's.
    if sys.path[0] != str(root):
        sys.path.insert(0, str(root))
    try:
        arguments = importlib.import_module("comfy.cli_args").args
        arguments.cpu = device.type == "cpu"
        for name in ("comfy.ops", "comfy.ldm.wan.model", "comfy.ldm.wan.vae"):
            importlib.import_module(name)
        return f"ComfyUI {importlib.import_module('comfyui_version').__version__}"
    except (ImportError, RuntimeError) as error:
        raise BackendError(
            f"ComfyUI cannot be imported ({error}). Install its requirements into this Python."
        ) from error
