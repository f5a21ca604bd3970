"""'Wan 2.2 Save Model': a MODEL with its LoRA as a file that our loaders and ComfyUI's read "
"alike."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import Tensor

from .graphs import Prompt, memory, model, node, random_text, save, stock_model
from .server import ComfyServer
from .stock import LORA, T2V_HIGH, empty_latent, ksampler, latent
from .test_saving import core_knows, error

pytestmark = pytest.mark.comfy

NVFP4 = T2V_HIGH.replace(".safetensors", "_nvfp4.safetensors")
BOUNDS = {"bf16": 4e-3, "fp8": 0.1, "int8": 0.03, "int8 convrot": 0.02, "GGUF Q8_0": 0.02}
"""Most error of latents, of a sampled video without files in between."""
NOTES = {"int8": "int8_tensorwise", "int8 convrot": "convrot_w4a4"}
"""Format that a core knows if it reads such a file."""


@pytest.fixture(autouse=True)
def clean(comfy_server: ComfyServer) -> Iterator[None]:
    yield
    for file in (comfy_server.output / "diffusion_models").glob("*"):
        file.unlink()


def sampled(server: ComfyServer, loader: Prompt, last: str) -> Tensor:
    prompt = {**random_text(), **empty_latent(), **loader, **ksampler((last, 0), "sampler")}
    result = server.run({**prompt, **save("sampled", latent=("sampler", 0))})
    assert result.status == "success", result.error
    return latent(server, "sampled")


def with_lora(name: str, limits: Prompt) -> Prompt:
    options = {"memory": ("memory", 0)} if limits else {}
    lora = node("LoraLoaderModelOnly", model=("model", 0), lora_name=LORA, strength_model=1.0)
    return {**limits, **model(name, **options), "lora": lora}


def saved(server: ComfyServer, loader: Prompt, name: str, last: str = "lora") -> tuple[Path, str]:
    """Runs the node; returns its file and what it said."""
    inputs = {"filename_prefix": "diffusion_models/kept", "format": name}
    result = server.run({**loader, "write": node("WanDuetSaveModel", model=(last, 0), **inputs)})
    assert result.status == "success", result.error
    files = list((server.output / "diffusion_models").iterdir())
    assert {file.suffix for file in files} == {".gguf" if "GGUF" in name else ".safetensors"}
    return max(files, key=lambda file: file.stat().st_mtime_ns), result.texts("write")[-1]


@pytest.mark.parametrize(
    ("source", "name", "limits"),
    [
        (T2V_HIGH, "bf16", {}),
        (T2V_HIGH, "fp8", memory(blocks_to_swap=1)),
        (NVFP4, "int8", {}),
        (NVFP4, "int8 convrot", memory(blocks_to_swap=1)),
        (T2V_HIGH, "GGUF Q8_0", {}),
    ],
)
def test_the_file_is_the_model(
    comfy_server: ComfyServer, comfyui: Path, source: str, name: str, limits: Prompt
) -> None:
    loader = with_lora(source, limits)
    expected = sampled(comfy_server, loader, "lora")
    file, text = saved(comfy_server, loader, name)
    assert file.name == f"kept_high_noise_{name.replace(' ', '_')}_00001_{file.suffix}"
    assert file.name in text
    got = sampled(comfy_server, model(file.name), "model")
    assert error(got, expected) < BOUNDS[name]
    if name.startswith("GGUF"):
        assert "ComfyUI-GGUF" in text
    elif name not in NOTES or core_knows(comfyui, NOTES[name]):
        theirs = sampled(comfy_server, stock_model(file.name, "model"), "model")
        # Old cores round layers outside of an fp8 file's blocks, new ones int8 activations.
        assert error(theirs, got) < (1e-2 if name == "bf16" else 5e-2)
    else:
        assert "too old to read such files" in text
    assert error(sampled(comfy_server, loader, "lora"), expected) == 0


def test_a_second_file_has_another_name(comfy_server: ComfyServer) -> None:
    first, _ = saved(comfy_server, model(T2V_HIGH), "bf16", "model")
    kept = first.read_bytes()
    second, _ = saved(comfy_server, model(T2V_HIGH, precision="auto"), "bf16", "model")
    assert second.name.replace("00002", "00001") == first.name
    assert first.read_bytes() == kept


def test_other_models_are_refused(comfy_server: ComfyServer) -> None:
    inputs = {"filename_prefix": "diffusion_models/kept", "format": "fp8"}
    write = {"write": node("WanDuetSaveModel", model=("model", 0), **inputs)}
    result = comfy_server.run({**stock_model(T2V_HIGH, "model"), **write})
    assert result.status == "error"
    assert result.error is not None
    assert "Got WanModel of another loader" in result.error["exception_message"]
