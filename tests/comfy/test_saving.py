"""Core's ModelSave on our MODEL: its file means the same to our loader and to core's."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.toy.gguf_files import write_dit
from tests.toy.make_checkpoints import scale_to_fp8

from .graphs import Prompt, memory, model, node, random_text, save, stock_model
from .server import ComfyServer
from .stock import LORA, T2V_HIGH, empty_latent, ksampler, latent

pytestmark = pytest.mark.comfy

KEPT = {"fp8": "float8_e4m3fn", "mxfp8": "mxfp8", "nvfp4": "nvfp4", "int8": "int8_tensorwise"}
"""ComfyUI's names of formats that it can be told of; row-wise fp8 has none."""
BOUND = 1e-2


def by_row(state: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Block weights with a scale per row, as our own conversions have."""
    result = dict(state)
    largest = 127 if dtype == torch.int8 else torch.finfo(dtype).max
    for key, tensor in state.items():
        if key.startswith("blocks.") and key.endswith(".weight") and tensor.ndim == 2:
            scale = tensor.float().abs().amax(1, keepdim=True) / largest
            codes = tensor.float() / scale
            result[key] = (codes.round() if dtype == torch.int8 else codes).to(dtype)
            result[f"{key}_scale"] = scale
    return result


@pytest.fixture(scope="module")
def files(comfy_server: ComfyServer, toy_models: Path) -> Iterator[Path]:
    """A folder "saved" of quantized transformers, and for what is saved."""
    source = toy_models / "diffusion_models"
    folder = comfy_server.base / "models" / "diffusion_models" / "saved"
    folder.mkdir()
    state = load_file(source / T2V_HIGH)
    save_file(state, folder / "plain.safetensors")
    save_file(scale_to_fp8(state, "comfy_quant"), folder / "fp8.safetensors")
    save_file(by_row(state, torch.float8_e4m3fn), folder / "fp8 by row.safetensors")
    save_file(by_row(state, torch.int8), folder / "int8.safetensors")
    write_dit(folder / "gguf.safetensors", state, "Q5_1")  # the content tells
    for name in ("mxfp8", "nvfp4"):
        file = source / f"toy4096_t2v_high_noise_{name}.safetensors"
        shutil.copy(file, folder / f"{name}.safetensors")
    yield folder
    shutil.rmtree(folder)


def run(server: ComfyServer, prompt: Prompt) -> None:
    result = server.run(prompt)
    assert result.status == "success", result.error


def sampled(server: ComfyServer, loader: Prompt, last: str = "model") -> Tensor:
    prompt = {**random_text(), **empty_latent(), **loader, **ksampler((last, 0), "sampler")}
    run(server, {**prompt, **save("saving", latent=("sampler", 0))})
    return latent(server, "saving")


def saved_by_core(server: ComfyServer, files: Path, loader: Prompt, last: str = "model") -> Path:
    """Runs ModelSave, and puts its file among the models, under a new name each time."""
    save_node = {"write": node("ModelSave", model=(last, 0), filename_prefix="saving/model")}
    run(server, {**loader, **save_node})
    (written,) = (server.output / "saving").glob("*.safetensors")
    return Path(shutil.move(written, files / f"again{len(list(files.iterdir()))}.safetensors"))


def error(got: Tensor, expected: Tensor) -> float:
    assert got.isfinite().all()
    return ((got - expected).norm() / expected.norm()).item()


def core_knows(comfyui: Path, name: str) -> bool:
    """Whether this core reads notes beside weights, and this one."""
    notes = "def convert_old_quants" in (comfyui / "comfy" / "utils.py").read_text()
    return notes and f'"{name}"' in (comfyui / "comfy" / "quant_ops.py").read_text()


@pytest.mark.parametrize("name", ["plain", "fp8", "fp8 by row", "int8", "mxfp8", "nvfp4", "gguf"])
def test_a_saved_model_means_what_it_meant(
    comfy_server: ComfyServer, comfyui: Path, files: Path, name: str
):
    source = files / f"{name}.safetensors"
    loader = model(f"saved/{source.name}")
    expected = sampled(comfy_server, loader)
    written = saved_by_core(comfy_server, files, loader)
    again = f"saved/{written.name}"
    assert error(sampled(comfy_server, model(again)), expected) < BOUND
    if name == "fp8" and not core_knows(comfyui, KEPT["fp8"]):
        # Before notes, core rounded the layers outside of the blocks to fp8 as well.
        expected = sampled(comfy_server, stock_model(f"saved/{legacy(source)}", "model"))
    assert error(sampled(comfy_server, stock_model(again, "model")), expected) < BOUND
    if name == "fp8" or (name in KEPT and core_knows(comfyui, KEPT[name])):
        assert written.stat().st_size < 1.02 * source.stat().st_size


def legacy(source: Path) -> str:
    """Writes the fp8 file in the spelling of Comfy-Org's files of 2025; returns its name."""
    state = {
        key.replace("weight_scale", "scale_weight"): tensor
        for key, tensor in load_file(source).items()
        if not key.endswith("comfy_quant")
    }
    state["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    save_file(state, source.parent / "legacy.safetensors")
    return "legacy.safetensors"


@pytest.mark.parametrize("limits", [{}, memory(blocks_to_swap=1)], ids=["core", "engine"])
@pytest.mark.parametrize("name", ["plain", "fp8", "nvfp4", "gguf"])
def test_loras_are_saved_with_the_model(
    comfy_server: ComfyServer, files: Path, name: str, limits: Prompt
):
    options = {"memory": ("memory", 0)} if limits else {}
    loader = {**limits, **model(f"saved/{name}.safetensors", **options)}
    bare = sampled(comfy_server, loader)
    lora = node("LoraLoaderModelOnly", model=("model", 0), lora_name=LORA, strength_model=1.0)
    expected = sampled(comfy_server, {**loader, "lora": lora}, "lora")
    assert error(bare, expected) > 5 * BOUND
    written = saved_by_core(comfy_server, files, {**loader, "lora": lora}, "lora")
    for loader_of in (model, stock_model):
        got = sampled(comfy_server, loader_of(f"saved/{written.name}", "model"))
        assert error(got, expected) < BOUND
    assert torch.equal(sampled(comfy_server, loader), bare)
