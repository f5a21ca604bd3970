"""Stock nodes around a MODEL: short ways to write what users of core's own nodes have."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from .graphs import Prompt, model, node, random_text, save, stock_model
from .server import ComfyServer

T2V_HIGH = "toy4096_t2v_high_noise.safetensors"
T2V_LOW = "toy4096_t2v_low_noise.safetensors"
I2V_HIGH = "toy4096_i2v_high_noise.safetensors"
TI2V = "toy4096_ti2v.safetensors"
LORA = "toy_lora.safetensors"
ROUNDING = 1e-5
"""Of the largest value of latents in fp32, which each kind of CPU rounds in its own way."""


def empty_latent(width: int = 64, height: int = 48, length: int = 5, batch_size: int = 1) -> Prompt:
    """An empty 16-channel video: ("latent", 0)."""
    sizes = {"width": width, "height": height, "length": length, "batch_size": batch_size}
    return {"latent": node("EmptyHunyuanLatentVideo", **sizes)}


def ksampler(model: tuple[str, int], node_id: str, **options: Any) -> Prompt:
    """Core's KSampler on random text, 3 steps."""
    defaults = {
        "seed": 7,
        "steps": 3,
        "cfg": 1.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "positive": ("positive", 0),
        "negative": ("negative", 0),
        "latent_image": ("latent", 0),
        "denoise": 1.0,
    }
    return {node_id: node("KSampler", model=model, **{**defaults, **options})}


def ksampler_advanced(model: tuple[str, int], node_id: str, **options: Any) -> Prompt:
    """Core's KSamplerAdvanced on random text, 4 steps."""
    defaults = {
        "add_noise": "enable",
        "noise_seed": 7,
        "steps": 4,
        "cfg": 1.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "positive": ("positive", 0),
        "negative": ("negative", 0),
        "latent_image": ("latent", 0),
        "start_at_step": 0,
        "end_at_step": 10000,
        "return_with_leftover_noise": "disable",
    }
    return {node_id: node("KSamplerAdvanced", model=model, **{**defaults, **options})}


def shifted(model: tuple[str, int], node_id: str, shift: float) -> Prompt:
    """Core's ModelSamplingSD3."""
    return {node_id: node("ModelSamplingSD3", model=model, shift=shift)}


def loaders(file: str) -> dict[str, Prompt]:
    """Core's loader and ours, by the id of the node that gives the MODEL."""
    return {"stock": stock_model(file, "stock"), "ours": model(file, "ours")}


def run_to_tensors(
    server: ComfyServer, prompt: Prompt, latents: dict[str, tuple[str, int]]
) -> dict[str, Tensor]:
    """Runs a prompt with random text and returns some of its latents by name."""
    saves = [save(name, latent=link) for name, link in latents.items()]
    for nodes in saves:
        prompt = {**prompt, **nodes}
    result = server.run({**random_text(), **prompt})
    assert result.status == "success", result.error
    return {name: latent(server, name) for name in latents}


def latent(server: ComfyServer, name: str) -> Tensor:
    """Returns a saved latent."""
    return load_file(server.output / f"{name}.safetensors")["samples"]


def difference(a: Tensor, b: Tensor) -> float:
    """Returns the largest absolute difference of two finite tensors of one shape."""
    assert a.shape == b.shape
    assert a.isfinite().all()
    assert b.isfinite().all()
    return (a - b).abs().max().item()


def relative(a: Tensor, b: Tensor) -> float:
    """Returns their largest difference as a part of the largest value of b: see `ROUNDING`."""
    return difference(a, b) / b.abs().max().item()


def upload_images(server: ComfyServer, folder: Path, names: str = "ab") -> Iterator[str]:
    """Uploads random images with transparency and yields their names."""
    for number, name in enumerate(names):
        generator = torch.Generator().manual_seed(number)
        coarse = torch.rand(1, 4, 6, 8, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=(48, 64), mode="bilinear")
        pixels = (smooth[0].permute(1, 2, 0) * 255).to(torch.uint8).numpy()
        path = folder / f"image_{name}.png"
        Image.fromarray(pixels, "RGBA").save(path)
        yield server.upload_image(path)
