"""Wrong or damaged files: refused by the loader, by name, with what they are and what is needed."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .graphs import (
    TEXT_ENCODER,
    VAE_21,
    Prompt,
    experts,
    image_to_video,
    model,
    moe_sampler,
    node,
    random_text,
    save,
    vae,
)
from .server import ComfyServer

pytestmark = pytest.mark.comfy

LINKS = {"positive": ("positive", 0), "negative": ("negative", 0)}
T2V_HIGH, SCALED = "toy_t2v_high_noise.safetensors", "toy_t2v_high_noise_scaled_fp8.safetensors"


def without(state: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if part not in key}


def with_nan_scale(state: dict[str, Tensor]) -> dict[str, Tensor]:
    name = "blocks.1.ffn.0.scale_weight"
    return state | {name: torch.full_like(state[name], float("nan"))}


def write_bad_models(folder: Path, models: Path) -> None:
    whole = (models / "diffusion_models" / T2V_HIGH).read_bytes()
    folder.mkdir()
    (folder / "truncated.safetensors").write_bytes(whole[: len(whole) * 3 // 5])
    (folder / "header.safetensors").write_bytes(whole[:8] + b"\xff" * 64 + whole[72:])
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "page.safetensors").write_bytes(b"<!DOCTYPE html><html>Sign in to download</html>")
    torch.save({"weight": torch.ones(3)}, folder / "pickled.safetensors")
    shutil.copy(models / "vae" / VAE_21, folder / "vae.safetensors")
    shutil.copy(models / "loras" / "toy_lora.safetensors", folder / "lora.safetensors")
    shutil.copy(models / "text_encoders" / TEXT_ENCODER, folder / "umt5.safetensors")
    flux = {"double_blocks.0.img_attn.qkv.weight": torch.ones(4, 4)}
    save_file(flux, folder / "flux.safetensors")
    save_file({"some.weight": torch.ones(3)}, folder / "other.safetensors")
    state = load_file(models / "diffusion_models" / T2V_HIGH)
    save_file(without(state, "blocks.1.cross_attn.k."), folder / "missing.safetensors")
    save_file(
        with_nan_scale(load_file(models / "diffusion_models" / SCALED)), folder / "nan.safetensors"
    )
    bias = "blocks.1.ffn.0.bias"
    infinite = state | {bias: torch.full_like(state[bias], float("inf"))}
    save_file(infinite, folder / "infinite_low_noise.safetensors")


@pytest.fixture(scope="module", autouse=True)
def bad_files(comfy_server: ComfyServer, toy_models: Path) -> Iterator[None]:
    """Puts the files into a folder "bad" of each model folder; at the end the server works."""
    models = comfy_server.base / "models"
    write_bad_models(models / "diffusion_models" / "bad", toy_models)
    for folder, file in (("vae", VAE_21), ("text_encoders", TEXT_ENCODER)):
        (models / folder / "bad").mkdir()
        whole = (toy_models / folder / file).read_bytes()
        (models / folder / "bad" / "truncated.safetensors").write_bytes(whole[:-1000])
        dit = toy_models / "diffusion_models" / T2V_HIGH
        shutil.copy(dit, models / folder / "bad" / "dit.safetensors")
    wan_vae = load_file(toy_models / "vae" / VAE_21)
    save_file(without(wan_vae, "decoder.head"), models / "vae" / "bad" / "missing.safetensors")
    encoder = load_file(toy_models / "text_encoders" / TEXT_ENCODER)
    folder = models / "text_encoders" / "bad"
    save_file(without(encoder, "block.1.layer.0.SelfAttention.v"), folder / "missing.safetensors")
    short = encoder | {"shared.weight": encoder["shared.weight"][:300].clone()}
    save_file(short, folder / "short.safetensors")
    save_file(without(short, "spiece_model"), folder / "untold.safetensors")
    garbled = encoder | {"spiece_model": encoder["spiece_model"][:-100].clone()}
    save_file(garbled, folder / "garbled.safetensors")
    shutil.copy(toy_models / "vae" / VAE_21, folder / "vae.safetensors")
    yield
    for kind in ("diffusion_models", "vae", "text_encoders"):
        shutil.rmtree(models / kind / "bad")
    result = comfy_server.run(text_to_video())
    assert result.status == "success", result.error


def text_to_video(**loaders: Prompt) -> Prompt:
    """One step of text to video with some loaders replaced."""
    prompt = {
        **random_text(text_dim=64, tokens=8),
        **model(T2V_HIGH),
        **vae(),
        **image_to_video(**LINKS),
        **moe_sampler(model_high=("model", 0), model_low=None, steps=1),
        **save("good", latent=("sampler", 0)),
    }
    for nodes in loaders.values():
        prompt |= nodes
    return prompt


def message(server: ComfyServer, prompt: Prompt, node_id: str) -> str:
    """Runs a prompt that must fail at one node; returns its message, whose form is checked."""
    result = server.run(prompt)
    assert result.status == "error"
    assert result.error is not None
    assert result.error["exception_type"] == "wanduet.WanDuetError"
    text = result.error["exception_message"].strip()
    assert result.error["node_id"] == node_id, text
    assert node_id == "sampler" or "sampler" not in result.executed
    assert " Got " in text, text
    assert " need " in text, text
    assert text.endswith("."), text
    assert str(server.base) not in text
    return text


@pytest.mark.parametrize(
    ("file", "parts"),
    [
        ("truncated", ["cut off", "Download the file again"]),
        ("header", ["header", "Download the file again"]),
        ("empty", ["an empty file"]),
        ("page", ["a web page instead of a model"]),
        ("pickled", ["safetensors"]),
        ("vae", ["wrong kind of file", "Wan 2.1 VAE", "need a diffusion model"]),
        ("lora", ["a LoRA", "LoRA loader"]),
        ("umt5", ["wrong kind of file", "text encoder", "need a diffusion model"]),
        ("flux", ["Flux", "Choose another file"]),
        ("other", ["some.weight", "Choose another file"]),
        ("missing", ["blocks.1.cross_attn.k.weight", "missing", "Download the file again"]),
        ("nan", ["broken scales", "nan", "blocks.1.ffn.0.scale_weight"]),
    ],
)
def test_bad_models(comfy_server: ComfyServer, file: str, parts: list[str]):
    text = message(comfy_server, text_to_video(model=model(f"bad/{file}.safetensors")), "model")

    assert text.startswith(f"{file}.safetensors ") or f" {file}.safetensors" in text, text
    assert all(part in text for part in parts), text


@pytest.mark.parametrize("file", ["truncated", "vae", "lora", "nan"])
def test_bad_experts(comfy_server: ComfyServer, file: str):
    prompt = text_to_video(experts=experts((T2V_HIGH, f"bad/{file}.safetensors")))
    prompt["sampler"]["inputs"] |= {"model_high": ["experts", 0], "model_low": ["experts", 1]}

    assert f"{file}.safetensors" in message(comfy_server, prompt, "experts")


@pytest.mark.parametrize(
    ("file", "parts"),
    [
        ("truncated", ["cut off", "Download the file again"]),
        ("dit", ["wrong kind of file", "T2V", "need a VAE"]),
        ("missing", ["incomplete", "decoder.head.0.gamma", "Download the file again"]),
    ],
)
def test_bad_vaes(comfy_server: ComfyServer, file: str, parts: list[str]):
    text = message(comfy_server, text_to_video(vae=vae(f"bad/{file}.safetensors")), "vae")

    assert all(part in text for part in [f"{file}.safetensors", *parts]), text


@pytest.mark.parametrize(
    ("file", "parts"),
    [
        ("truncated", ["cut off", "Download the file again"]),
        ("dit", ["wrong kind of file", "T2V", "need a umT5 text encoder", "umt5_xxl_fp16"]),
        ("vae", ["wrong kind of file", "Wan 2.1 VAE", "umt5_xxl_fp16"]),
        ("missing", ["does not fit", "encoder.block.1.layer.0.SelfAttention.v.weight"]),
        ("short", ["a different model's tokenizer", "need at most 300 and 1"]),
        ("garbled", ["a damaged tokenizer", "Download the file again"]),
        ("untold", ["has no tokenizer", "no other umT5 with 300 tokens", "umt5_xxl_fp16"]),
    ],
)
def test_bad_text_encoders(comfy_server: ComfyServer, file: str, parts: list[str]):
    name = f"bad/{file}.safetensors"
    prompt = {
        "clip": node("WanDuetTextEncoderLoader", text_encoder_name=name),
        "text": node("WanDuetTextEncode", clip=("clip", 0), positive="a cat", negative=""),
        **save("never", conditioning=("text", 0)),
    }
    text = message(comfy_server, prompt, "clip")

    assert all(part in text for part in [f"{file}.safetensors", *parts]), text


def test_a_model_that_computes_no_numbers(comfy_server: ComfyServer):
    files = (T2V_HIGH, "bad/infinite_low_noise.safetensors")
    text = message(
        comfy_server,
        {
            **experts(files),
            **random_text(text_dim=64, tokens=8),
            **vae(),
            **image_to_video(**LINKS),
            **moe_sampler(steps=4),
            **save("black", latent=("sampler", 0)),
        },
        "sampler",
    )
    assert "in the first step of the low-noise model" in text, text
    assert "black" in text, text
