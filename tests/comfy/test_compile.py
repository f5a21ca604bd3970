"""Compiled blocks in a real server: the same video, graphs compiled once, and word of it.

PyTorch's own compiler makes real code for the CPU. A server keeps its graphs, so the first test
that needs them waits for it.
"""

import re
import shutil
from typing import Any

import pytest
from torch import Tensor

from tests.conftest import missing

from .graphs import T2V, Prompt, experts, memory, model, moe_sampler, node, random_text
from .server import ComfyServer
from .stock import (
    LORA,
    ROUNDING,
    T2V_HIGH,
    difference,
    empty_latent,
    ksampler,
    latent,
    relative,
    shifted,
    stock_model,
)

pytestmark = [pytest.mark.comfy, pytest.mark.slow]

LINKS = {"positive": ("positive", 0), "negative": ("negative", 0), "latent_image": ("latent", 0)}
INPUTS: Prompt = {**random_text(64, 20), **empty_latent()}
COMPILED = re.compile(r".*: Compiled 3 graphs in \d+\.\d s\.")
KNOWN = "Compiled before: nothing to wait for."


@pytest.fixture(autouse=True)
def compiler() -> None:
    if not any(map(shutil.which, ("g++", "clang++", "cl"))):
        missing("No C++ compiler. Install g++.", "WANDUET_REQUIRE_COMFY")


def compiled(source: tuple[str, int], node_id: str, mode: str = "default") -> Prompt:
    """Our node on a MODEL."""
    return {node_id: node("WanDuetCompile", model=source, mode=mode)}


def saved(prompt: Prompt, *names: str) -> Prompt:
    """Saves latents under the ids of their nodes."""
    return prompt | {
        f"save_{name}": node("WanDuetTestSaveTensors", name=name, latent=(name, 0))
        for name in names
    }


def run_both(
    server: ComfyServer, prompt: Prompt, source: tuple[str, int], **options: Any
) -> tuple[str, Tensor, Tensor]:
    """Samples a MODEL compiled and as it is; returns what was said, and both latents."""
    server.free()
    prompt = prompt | compiled(source, "compiled")
    for name, link in (("fused", ("compiled", 0)), ("plain", source)):
        prompt |= moe_sampler(name, model_high=link, model_low=None, **{**LINKS, **options})
    result = server.run(saved(prompt, "fused", "plain"))
    assert result.status == "success", result.error
    (said,) = result.texts("compiled")
    assert said in server.log()
    return said, latent(server, "fused"), latent(server, "plain")


def test_both_experts_share_their_graphs(comfy_server: ComfyServer):
    prompt: Prompt = {**INPUTS, **experts()}
    prompt["forgotten"] = node("WanDuetTestForgetGraphs", model=("experts", 0))
    prompt |= compiled(("forgotten", 0), "high") | compiled(("experts", 1), "low")
    settings: dict[str, Any] = {"shift": 8.0, "sampler": "unipc", **LINKS}
    links = {"model_high": ("high", 0), "model_low": ("low", 0)}
    prompt |= moe_sampler("fused", **links, **settings) | moe_sampler("plain", **settings)
    result = comfy_server.run(saved(prompt, "fused", "plain"))

    assert result.status == "success", result.error
    (high,), (low,) = result.texts("high"), result.texts("low")
    assert COMPILED.fullmatch(high)
    assert low.endswith(KNOWN)
    assert high.split(":")[0] != low.split(":")[0]
    fused, plain = latent(comfy_server, "fused"), latent(comfy_server, "plain")
    assert 0 < relative(fused, plain) <= ROUNDING


@pytest.mark.parametrize("streamed", [False, True])
def test_nothing_else_is_compiled_for(comfy_server: ComfyServer, streamed: bool):
    """Another size, LoRAs of any strength, a step cache, another solver, the model loaded anew."""
    prompt: Prompt = {**INPUTS, **model(T2V[0])}
    if streamed:
        prompt |= {**memory(blocks_to_swap=2), **model(T2V[0], memory=("memory", 0))}
    run_both(comfy_server, prompt, ("model", 0), steps=1)
    cached = {"method": "auto", "threshold": 0.0, "start_percent": 0.0, "end_percent": 1.0}
    prompt["cache"] = node("WanDuetStepCache", model=("model", 0), **cached)
    for strength in (1.0, -0.4):
        lora = {"lora_name": LORA, "strength_model": strength}
        prompt[f"lora {strength}"] = node("LoraLoaderModelOnly", model=("model", 0), **lora)
    larger = prompt | empty_latent(80, 64, 9)
    for changed, source, options in (
        (larger, "model", {}),
        (prompt, "lora 1.0", {}),
        (prompt, "lora -0.4", {}),
        (prompt, "cache", {"steps": 12}),
        (larger, "model", {"sampler": "heun", "seed": 8}),
    ):
        said, fused, exact = run_both(comfy_server, changed, (source, 0), **options)
        assert said.endswith(KNOWN), (source, options)
        assert 0 < relative(fused, exact) <= ROUNDING


def test_stock_samplers_and_clones_share_what_was_compiled(comfy_server: ComfyServer):
    prompt: Prompt = {**random_text(), **empty_latent(), **model(T2V_HIGH, "ours")}
    prompt |= compiled(("ours", 0), "compiled")
    names = []
    for source in ("compiled", "ours"):
        for shift in (8.0, 5.0):
            name = f"{source}_{shift:g}"
            names.append(name)
            prompt |= shifted((source, 0), f"{name}_shift", shift)
            prompt |= ksampler((f"{name}_shift", 0), name, sampler_name="dpmpp_2m")
    comfy_server.free()
    result = comfy_server.run(saved(prompt, *names))
    assert result.status == "success", result.error
    assert len(result.texts("compiled")) == 1
    fused_8, fused_5, plain_8, plain_5 = (latent(comfy_server, name) for name in names)
    assert 0 < relative(fused_8, plain_8) <= ROUNDING
    assert 0 < relative(fused_5, plain_5) <= ROUNDING


def test_blocks_that_comfyui_streams_run_as_they_are(comfy_server: ComfyServer):
    prompt = {**INPUTS, **model(T2V[0])}
    prompt["streamed"] = node("WanDuetTestStreamedBlock", model=("model", 0))
    said, fused, plain = run_both(comfy_server, prompt, ("streamed", 0))
    assert "connect 'Wan 2.2 VRAM & Block Swap' to the model's loader" in said
    assert 0 < relative(fused, plain) <= ROUNDING


def test_the_given_model_is_left_alone_and_a_second_node_replaces_the_first(
    comfy_server: ComfyServer,
):
    (comfy_server.output / "compile_state.jsonl").unlink(missing_ok=True)
    state = {"model": ("model", 0), "name": "compile_state"}
    prompt = {**INPUTS, **model(T2V[0])}
    prompt["before"] = node("WanDuetTestModelState", latent=("latent", 0), **state)
    prompt |= compiled(("model", 0), "first") | compiled(("first", 0), "second")
    links = {**LINKS, "latent_image": ("before", 0)}
    prompt |= moe_sampler("fused", model_high=("second", 0), model_low=None, **links)
    prompt["after"] = node("WanDuetTestModelState", latent=("fused", 0), **state)
    result = comfy_server.run(saved(prompt, "after"))

    assert result.status == "success", result.error
    assert result.texts("second")
    assert not result.texts("first")
    before, after = (comfy_server.output / "compile_state.jsonl").read_text().splitlines()
    assert before == after


def test_models_of_other_loaders_are_refused(comfy_server: ComfyServer):
    prompt = {**INPUTS, **stock_model(T2V_HIGH, "stock"), **compiled(("stock", 0), "compiled")}
    prompt |= moe_sampler("fused", model_high=("compiled", 0), model_low=None, **LINKS)
    error = comfy_server.run(saved(prompt, "fused")).error
    assert error is not None
    assert error["exception_type"].endswith("WanDuetError")
    assert error["exception_message"].startswith(
        "This MODEL cannot be compiled by 'Wan 2.2 Torch Compile'."
    )
    assert "Wan 2.2 Load Model" in error["exception_message"]


def test_what_other_nodes_patch_runs_uncompiled(comfy_server: ComfyServer):
    patch = node("WanDuetTestPatch", model=("model", 0), kind="enhance_motion")
    prompt: Prompt = {**random_text(), **empty_latent(), **model(T2V_HIGH), "patched": patch}
    prompt |= compiled(("patched", 0), "compiled") | ksampler(("compiled", 0), "fused")
    prompt |= ksampler(("patched", 0), "plain")
    result = comfy_server.run(saved(prompt, "fused", "plain"))

    assert result.status == "success", result.error
    (said,) = (text for text in result.texts("fused") if "Other nodes" in text)
    assert "patch 2 of 2 blocks" in said
    assert "without 'Wan 2.2 Torch Compile'." in said
    assert difference(latent(comfy_server, "fused"), latent(comfy_server, "plain")) == 0
