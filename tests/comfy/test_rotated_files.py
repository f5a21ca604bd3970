"""ComfyUI's int8 files with rotated weights, through our loader, with a LoRA, and core's loader."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import comfy_kitchen.tensor as kitchen
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.toy.make_checkpoints import json_tensor

from .graphs import Prompt, memory, model, node, stock_model
from .server import ComfyServer
from .stock import LORA, T2V_HIGH
from .test_save_model import sampled
from .test_saving import core_knows, error

pytestmark = pytest.mark.comfy

NOTE = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 256}


@pytest.fixture(scope="module")
def files(comfy_server: ComfyServer, toy_models: Path) -> Iterator[Path]:
    """A file as ComfyUI makes it, and one with what its weights stand for."""
    folder = comfy_server.base / "models" / "diffusion_models" / "rotated"
    folder.mkdir()
    packed = load_file(toy_models / "diffusion_models" / T2V_HIGH)
    dense = dict(packed)
    layout = kitchen.TensorWiseINT8Layout
    for key, tensor in dense.items():
        if not (key.startswith("blocks.") and key.endswith(".weight") and tensor.ndim == 2):
            continue
        codes, params = layout.quantize(tensor.float(), per_channel=True, convrot=True)
        dense[key] = layout.dequantize(codes, params)
        layer = key.removesuffix(".weight")
        packed |= {key: codes, f"{layer}.weight_scale": params.scale}
        packed[f"{layer}.comfy_quant"] = json_tensor(NOTE)
    save_file(packed, folder / "convrot.safetensors")
    save_file(dense, folder / "dense.safetensors")
    yield folder
    shutil.rmtree(folder)


def loaded(name: str, *, lora: bool, limits: Prompt) -> Prompt:
    options = {"memory": ("memory", 0)} if limits else {}
    loader = {**limits, **model(f"rotated/{name}.safetensors", node_id="bare", **options)}
    if not lora:
        return {**loader, "model": loader.pop("bare")}
    link = node("LoraLoaderModelOnly", model=("bare", 0), lora_name=LORA, strength_model=1.0)
    return {**loader, "model": link}


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("limits", [{}, memory(blocks_to_swap=1)], ids=["core", "engine"])
@pytest.mark.parametrize("lora", [False, True], ids=["bare", "lora"])
def test_a_rotated_file_is_its_dense_one(
    comfy_server: ComfyServer, lora: bool, limits: Prompt
) -> None:
    expected = sampled(comfy_server, loaded("dense", lora=lora, limits={}), "model")
    got = sampled(comfy_server, loaded("convrot", lora=lora, limits=limits), "model")
    assert error(got, expected) < 1e-4


def test_core_finds_the_same(comfy_server: ComfyServer, comfyui: Path, files: Path) -> None:
    if not core_knows(comfyui, "convrot_w4a4"):
        pytest.skip("this ComfyUI knows no rotated weights")
    expected = sampled(comfy_server, stock_model("rotated/dense.safetensors", "model"), "model")
    got = sampled(comfy_server, stock_model(f"{files.name}/convrot.safetensors", "model"), "model")
    assert torch.isfinite(got).all()
    assert error(got, expected) < 0.05
