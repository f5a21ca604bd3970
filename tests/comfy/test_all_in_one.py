"""All-in-one files through the three loaders, and umT5 files without a tokenizer."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .graphs import (
    T2V,
    TEXT_ENCODER,
    VAE_21,
    Prompt,
    image_to_video,
    model,
    moe_sampler,
    node,
    prompts,
    save,
    vae,
)
from .server import ComfyServer
from .stock import latent

pytestmark = pytest.mark.comfy

AIO = "checkpoints/rapid/aio.safetensors"
PREFIXES = {
    "diffusion_models": "model.diffusion_model.",
    "vae": "vae.",
    "text_encoders": "text_encoders.umt5xxl.transformer.",
}


def official_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A umT5 encoder with the key names of the official code, as some packs publish it."""
    parts = {
        "layer.0.SelfAttention.relative_attention_bias": "pos_embedding.embedding",
        "layer.0.SelfAttention": "attn",
        "layer.0.layer_norm": "norm1",
        "layer.1.layer_norm": "norm2",
        "layer.1.DenseReluDense.wi_0": "ffn.gate.0",
        "layer.1.DenseReluDense.wi_1": "ffn.fc1",
        "layer.1.DenseReluDense.wo": "ffn.fc2",
        "encoder.block": "blocks",
        "encoder.final_layer_norm": "norm",
        "shared": "token_embedding",
    }
    renamed = {}
    for key, tensor in state.items():
        for old, new in parts.items():
            key = key.replace(old, new)
        renamed[key] = tensor
    return renamed


@pytest.fixture(scope="module")
def files(comfy_server: ComfyServer, toy_models: Path) -> Iterator[None]:
    """The toy pipeline in one file, as ComfyUI saves it, beside a checkpoint of something else."""
    models = comfy_server.base / "models"
    state: dict[str, Tensor] = {}
    for (folder, prefix), name in zip(
        PREFIXES.items(), (T2V[0], VAE_21, TEXT_ENCODER), strict=True
    ):
        part = load_file(toy_models / folder / name)
        state |= {prefix + key: tensor for key, tensor in part.items()}
    spiece = state.pop(f"{PREFIXES['text_encoders']}spiece_model")
    state |= {"text_encoders.spiece_model": spiece}
    state["text_encoders.umt5xxl.logit_scale"] = torch.tensor(4.6)
    folder = models / "checkpoints"
    (folder / "rapid").mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "rapid" / "aio.safetensors")
    other = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2)}
    save_file(other, folder / "sd.safetensors")
    encoder = load_file(toy_models / "text_encoders" / TEXT_ENCODER)
    encoder.pop("spiece_model")
    save_file(official_names(encoder), models / "text_encoders" / "enc-official.safetensors")
    yield
    shutil.rmtree(folder / "rapid")
    (folder / "sd.safetensors").unlink()
    (models / "text_encoders" / "enc-official.safetensors").unlink()


def pipeline(name: str, vae_name: str, encoder: str) -> Prompt:
    text = prompts()
    text["clip"]["inputs"]["text_encoder_name"] = encoder
    video = {**model(name), **vae(vae_name), **text, **image_to_video()}
    sampler = moe_sampler(model_high=("model", 0), model_low=None)
    links = {"vae": ("vae", 0), "samples": ("sampler", 0)}
    decoded = {"decode": node("WanDuetVAEDecode", **links, tiling="auto")}
    kept = save("aio", latent=("sampler", 0), image=("decode", 0))
    return {**video, **sampler, **decoded, **kept}


def run(server: ComfyServer, prompt: Prompt) -> Tensor:
    result = server.run(prompt)
    assert result.status == "success", result.error
    return latent(server, "aio")


@pytest.mark.usefixtures("files")
def test_an_all_in_one_file_is_as_good_as_its_parts(comfy_server: ComfyServer) -> None:
    expected = run(comfy_server, pipeline(T2V[0], VAE_21, TEXT_ENCODER))
    got = run(comfy_server, pipeline(AIO, AIO, AIO))
    assert (got - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.usefixtures("files")
def test_it_is_listed_by_our_loaders_only(comfy_server: ComfyServer) -> None:
    known = comfy_server.object_info()
    for kind in ("Model", "VAE", "TextEncoder"):
        ours = json.dumps(known[f"WanDuet{kind}Loader"])
        assert AIO in ours
        assert "sd.safetensors" not in ours
    core = json.dumps([known[name] for name in ("UNETLoader", "VAELoader", "CLIPLoader")])
    assert "aio" not in core


@pytest.mark.usefixtures("files")
def test_official_names_and_another_files_tokenizer(comfy_server: ComfyServer) -> None:
    expected = run(comfy_server, pipeline(T2V[0], VAE_21, TEXT_ENCODER))
    got = run(comfy_server, pipeline(T2V[0], VAE_21, "enc-official.safetensors"))
    assert torch.equal(got, expected)
