"""The precision that a loader is asked for: what it says, and small weights with LoRAs."""

import importlib
import shutil
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from .bare_pack import BarePack
from .devices import cpu_only, gpu_only
from .graphs import T2V, Prompt, experts, memory, model, moe_sampler, node, random_text, save
from .server import ComfyServer
from .stock import LORA, empty_latent, latent

pytestmark = pytest.mark.comfy

LINKS = {"positive": ("positive", 0), "negative": ("negative", 0), "latent_image": ("latent", 0)}
INPUTS: Prompt = {**random_text(64, 20), **empty_latent()}
FP8 = "toy_t2v_high_noise_scaled_fp8.safetensors"


def insert(server: ComfyServer, mib: int) -> None:
    """Gives the server a card of some size."""
    server.free()
    result = server.run({"card": node("WanDuetTestSetCard", nbytes=mib << 20)})
    assert result.status == "success", result.error


def sampled(server: ComfyServer, loader: Prompt, *strengths: float) -> Tensor:
    """Samples two steps with ("model", 0), under LoRAs of some strengths."""
    prompt, last = {**INPUTS, **loader}, ("model", 0)
    for strength in strengths:
        lora = {"lora_name": LORA, "strength_model": strength}
        prompt[f"lora {strength}"] = node("LoraLoaderModelOnly", model=last, **lora)
        last = (f"lora {strength}", 0)
    prompt |= moe_sampler(model_high=last, model_low=None, steps=2, **LINKS)
    result = server.run({**prompt, **save("precision", latent=("sampler", 0))})
    assert result.status == "success", result.error
    return latent(server, "precision")


def anyway(name: str, precision: str, **limits: Any) -> Prompt:
    """Loads with matmuls of a precision that the loaders refuse on a CPU."""
    options = {"memory": ("memory", 0)} if limits else {}
    loader = node("WanDuetTestLoadAnyway", model_name=name, precision=precision, **options)
    return {"model": loader, **(memory(**limits) if limits else {})}


def error(got: Tensor, exact: Tensor) -> float:
    assert got.isfinite().all()
    return ((got - exact).norm() / exact.norm()).item()


def test_the_choices(comfy_server: ComfyServer):
    info: Any = comfy_server.object_info()
    wide = ["auto", "bf16", "fp16", "fp32"]
    small = ["fp8", "int8", "nvfp4"]
    expected = {"Model": [*wide, *small], "Expert": [*wide, *small], "VAE": wide}
    for loader, options in expected.items():
        precision = info[f"WanDuet{loader}Loader"]["input"]["required"]["precision"]
        assert precision[1]["options"] == options


@cpu_only
@pytest.mark.parametrize("asked", ["fp8", "int8", "nvfp4"])
def test_small_matmuls_on_a_cpu_are_refused_before_anything_is_loaded(
    comfy_server: Any, asked: str
):
    loads = comfy_server.log().count("Loaded ")
    prompt = {**INPUTS, **experts(precision=asked), **moe_sampler(steps=2, **LINKS)}
    result = comfy_server.run({**prompt, **save("refused", latent=("sampler", 0))})
    assert result.status == "error"
    assert result.error["node_id"] == "experts"
    message = result.error["exception_message"]
    assert f"The precision {asked} is not available here. Got a CPU" in message
    assert "Choose 'auto'." in message
    assert comfy_server.log().count("Loaded ") == loads


@gpu_only
@pytest.mark.parametrize("asked", ["fp8", "int8"])
@pytest.mark.parametrize("name", [T2V[0], FP8])
def test_8_bit_matmuls_on_a_gpu(comfy_server: ComfyServer, name: str, asked: str):
    exact, in_place = (sampled(comfy_server, model(name, precision=p)) for p in ("fp32", asked))
    assert error(in_place, exact) < 0.1
    streamed = {**memory(blocks_to_swap=2), **model(name, precision=asked, memory=("memory", 0))}
    assert torch.equal(sampled(comfy_server, streamed), in_place)


@cpu_only
@pytest.mark.parametrize("name", [T2V[0], FP8])
def test_auto_on_a_cpu_is_fp32_and_is_shown(comfy_server: ComfyServer, name: str):
    explicit = sampled(comfy_server, model(name))
    prompt = {**INPUTS, **model(name, precision="auto")}
    prompt |= moe_sampler(model_high=("model", 0), model_low=None, steps=2, **LINKS)
    result = comfy_server.run({**prompt, **save("auto", latent=("sampler", 0))})
    assert result.status == "success", result.error
    (text,) = result.texts("model")
    assert text.splitlines()[1] == "fp32 matmuls: this runs on the CPU"
    assert torch.equal(latent(comfy_server, "auto"), explicit)


@pytest.fixture
def precision(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What the loaders ask, without ComfyUI, for a GPU that has bf16."""

    def compute_dtype(asked: str, _: torch.device) -> torch.dtype:
        return torch.float16 if asked == "fp16" else torch.bfloat16

    pack = BarePack(monkeypatch, compute_dtype=compute_dtype)
    kernel = pack.module("wan_model.quant.kernels").MatmulKernel
    monkeypatch.setattr(kernel, "_failed_trial", lambda *_: None)
    return pack.module("nodes._comfy.model.precision_choice")


CONVERTED = "; weights converted from fp16"


@pytest.mark.parametrize(
    ("asked", "stored", "line"),
    [
        ("auto", "fp8 scaled", "fp8 matmuls: the file holds fp8; this GPU (9.0) multiplies it"),
        ("auto", "fp16", "bf16 matmuls: the file holds fp16"),
        ("fp16", "fp8 scaled", "fp16 matmuls"),
        ("fp8", "fp8 scaled", "fp8 matmuls: torch._scaled_mm with row-wise scales"),
        ("fp8", "fp16", f"fp8 matmuls: torch._scaled_mm with row-wise scales{CONVERTED}"),
        ("int8", "fp16", f"int8 matmuls: comfy-kitchen int8_linear{CONVERTED}"),
        (
            "auto",
            "nvfp4",
            "bf16 matmuls: the file holds nvfp4; comfy-kitchen scaled_mm_nvfp4: "
            "needs compute capability 10.0, this GPU has 9.0",
        ),
    ],
)
def test_what_is_said_on_a_gpu(
    precision: Any, asked: str, stored: str, line: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    formats = importlib.import_module("pack.wan_model.quant").FORMATS
    found = [weight_format for weight_format in formats if weight_format.name == stored]
    info = SimpleNamespace(format=stored, formats=found, full_precision=False)
    assert precision.explain(asked, info, torch.device("cuda")) == line


def test_a_file_that_asks_for_full_precision_is_honoured_and_what_is_faster_named(
    precision: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    formats = importlib.import_module("pack.wan_model.quant").FORMATS
    found = [weight_format for weight_format in formats if weight_format.name == "fp8 scaled"]
    info = SimpleNamespace(format="fp8 scaled", formats=found, full_precision=True)
    assert precision.explain("auto", info, torch.device("cuda")) == (
        "bf16 matmuls: the file holds fp8 and asks for matmuls in full precision ('fp8' is "
        "faster, and ten times coarser)"
    )
    assert precision.explain("fp8", info, torch.device("cuda")).startswith("fp8 matmuls: torch.")


@pytest.mark.parametrize(
    ("tier", "asked", "used"),
    [
        ("exact", "auto", "bf16"),
        ("exact", "fp8", "fp8"),
        ("fast", "auto", "auto, 8 bit"),
        ("fastest", "auto", "auto, 8 bit"),
        ("fast", "bf16", "bf16"),
        ("auto", "auto", "auto"),
    ],
)
def test_what_auto_is_at_a_tier_of_speed(precision: Any, tier: str, asked: str, used: str):
    found = importlib.import_module("pack.wan_model.presets").find_tier(tier)
    assert precision.precision_at(found, asked, torch.device("cuda")) == used


@pytest.mark.parametrize(
    ("stored", "capability", "line"),
    [
        (["fp8 scaled"], (9, 0), "fp8 matmuls: the file holds fp8; this GPU (9.0) multiplies it"),
        (["fp8 scaled"], (8, 6), "bf16 matmuls: the file holds fp8; torch._scaled_mm, scaled"),
        (["fp16"], (9, 0), "bf16 matmuls: the file holds fp16"),
        (["fp16", "fp8 scaled"], (9, 0), "fp8 and bf16 matmuls: the file holds fp8; this GPU"),
        (
            ["fp8 scaled", "nvfp4"],
            (10, 0),
            "fp8 matmuls: the file holds fp8 and nvfp4; this GPU (10.0) multiplies fp8; nvfp4 in "
            "full precision, as the file asks",
        ),
    ],
)
def test_what_a_fast_tier_says_of_a_file_that_asks_for_full_precision(
    precision: Any,
    stored: list[str],
    capability: tuple[int, int],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    formats = {f.name: f for f in importlib.import_module("pack.wan_model.quant").FORMATS}
    found = [formats[name] for name in stored]
    info = SimpleNamespace(format=stored[0], formats=found, full_precision=True)
    said = precision.explain("auto, 8 bit", info, torch.device("cuda"))
    assert said.startswith(line)
    assert "ten times coarser" not in said


def test_a_gpu_without_fp8_refuses_it_with_every_reason(
    precision: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    with pytest.raises(ValueError, match=r"fp8 is not available here") as caught:
        precision.explain("fp8", SimpleNamespace(format="fp16"), torch.device("cuda"))
    assert str(caught.value).count("needs compute capability 8.9, this GPU has 8.6") == 2
    assert "Choose 'auto'." in str(caught.value)


@pytest.mark.parametrize(
    ("name", "asked", "exact_name", "limits"),
    [
        (T2V[0], "fp8", T2V[0], (0.05, 0.12)),
        (T2V[0], "int8", T2V[0], (0.05, 0.05)),
        (FP8, "fp8", FP8, (0.05, 0.12)),
    ],
)
def test_loras_on_small_weights(
    card: ComfyServer, name: str, asked: str, exact_name: str, limits: tuple[float, float]
):
    """Weights loaded by ComfyUI, streamed by it, streamed by our engine: the same.

    What is dequantized is in test_loras.py.
    """
    insert(card, 1024)
    bare = sampled(card, anyway(name, asked))
    exact, exact_bare = (sampled(card, model(exact_name), *s) for s in ((1.0, -0.4), ()))
    assert error(bare, exact_bare) < limits[0]
    merged = sampled(card, anyway(name, asked), 1.0, -0.4)
    assert error(exact, exact_bare) > 0.05
    assert error(merged - bare, exact - exact_bare) < limits[1]
    assert torch.equal(sampled(card, anyway(name, asked)), bare)
    insert(card, 1)  # only what ComfyUI cannot stream fits
    assert torch.equal(sampled(card, anyway(name, asked), 1.0, -0.4), merged)
    assert "loaded partially" in card.log()
    insert(card, 1024)
    streamed = anyway(name, asked, blocks_to_swap=2)
    assert torch.equal(sampled(card, streamed, 1.0, -0.4), merged)
    assert torch.equal(sampled(card, streamed), bare)


def test_the_engine_streams_from_a_file_of_converted_weights(card: ComfyServer):
    folder = card.base / "user" / "wanduet" / "weights"
    shutil.rmtree(folder, ignore_errors=True)
    insert(card, 1024)
    in_ram = sampled(card, anyway(T2V[1], "int8"))
    assert not folder.exists()
    assert torch.equal(sampled(card, anyway(T2V[1], "int8", blocks_to_swap=2)), in_ram)
    (file,) = folder.iterdir()
    source = card.base / "models" / "diffusion_models" / T2V[1]
    assert file.stat().st_size < 0.7 * source.stat().st_size
    assert f"Converting to {file}: 0.0 GiB of disk, kept for later" in card.log()
    sampled(card, anyway(FP8, "fp8", blocks_to_swap=2))
    assert list(folder.iterdir()) == [file]
