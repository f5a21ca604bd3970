"""Sparse attention by layer and step, with a fake kernel: whatever runs the blocks."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import missing

from .devices import cpu_only
from .graphs import Prompt, experts, memory, model, moe_sampler, node, random_text, save
from .server import ComfyServer
from .stock import T2V_HIGH, empty_latent, ksampler, latent

pytestmark = pytest.mark.comfy

LINKS = {"positive": ("positive", 0), "negative": ("negative", 0), "latent_image": ("latent", 0)}
VIDEO = empty_latent(512, 512, 1)
"""As many tokens as low precision is for."""
SMALL_VIDEO = empty_latent(496, 512, 1)
DENSE, SPARSE = ["dense", "dense"], ["dense", "sparse"]
"""What the two layers of a toy model attend with."""
FALLBACK = "sparse gave values that are not finite; sdpa is used instead."


def sparse(source: tuple[str, int], node_id: str, name: str, **options: Any) -> Prompt:
    """A MODEL with the fake kernel, which writes its passes under a name."""
    options = {"label": "", "broken": False, **options}
    return {node_id: node("WanDuetTestSparseAttention", model=source, name=name, **options)}


def run(server: ComfyServer, prompt: Prompt, name: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Runs a prompt with the sampler `name`; returns its passes, and what it said."""
    path = server.output / f"{name}.jsonl"
    path.unlink(missing_ok=True)
    result = server.run(prompt | save(name, latent=(name, 0)))
    assert result.status == "success", result.error
    return [json.loads(line) for line in path.read_text().splitlines()], result.texts(name)


def layers(passes: list[dict[str, Any]]) -> list[list[str]]:
    return [line["layers"] for line in passes]


@cpu_only
def test_it_is_refused_by_name_where_it_cannot_run(comfy_server: ComfyServer):
    prompt = {**random_text(), **VIDEO, **model(T2V_HIGH, attention="kitchen_sol")}
    result = comfy_server.run(
        prompt | ksampler(("model", 0), "never") | save("never", latent=("never", 0))
    )
    assert result.error is not None
    assert result.error["node_id"] == "model"
    assert "Got 'kitchen_sol', which needs an NVIDIA GPU" in result.error["exception_message"]


@cpu_only
def test_a_file_that_was_trained_so_says_where_it_runs_dense(
    comfy_server: ComfyServer, toy_models: Path
):
    name = T2V_HIGH.replace(".safetensors", "_nvfp4.safetensors")
    source = toy_models / "diffusion_models" / name
    folder = comfy_server.base / "models" / "diffusion_models"
    file = folder / "Toy-T2V_NVFP4_Sparse_high_comfy.safetensors"
    file.symlink_to(source.resolve())
    try:
        prompt = {**random_text(), **empty_latent(), **model(file.name, attention="auto")}
        prompt |= ksampler(("model", 0), "never") | save("trained", latent=("never", 0))
        result = comfy_server.run(prompt)
    finally:
        file.unlink()
    assert result.status == "success", result.error
    (text,) = result.texts("model")
    assert "was trained with sparse attention and runs here with full attention" in text
    assert "slower: kitchen_sol needs an NVIDIA GPU" in text


@pytest.mark.parametrize(("sampler", "streamed"), [("unipc", True), ("euler", False)])
def test_steps_are_counted_over_both_experts(comfy_server, sampler, streamed):
    name, options = f"steps_{sampler}_{streamed}", {}
    prompt: Prompt = {**random_text(64, 20), **VIDEO, **experts()}
    if streamed:
        prompt |= {**memory(blocks_to_swap=2), **experts(memory=("memory", 0))}
    for number, label in enumerate(("high", "low")):
        prompt |= sparse(("experts", number), label, name, label=label)
        options[f"model_{label}"] = (label, 0)
    settings = {"steps": 10, "sampler": sampler, "shift": 12.0, **LINKS}
    passes, _ = run(comfy_server, prompt | moe_sampler(name, **options, **settings), name)
    labels = [line["label"] for line in passes]
    assert {"high", "low"} == set(labels) == {*labels[2:]}, "Both run in sparse steps."
    assert layers(passes) == 2 * [DENSE] + 8 * [SPARSE]
    exact = f"exact_{name}"
    plain = comfy_server.run(
        prompt | moe_sampler(exact, **settings) | save(exact, latent=(exact, 0))
    )
    assert plain.status == "success", plain.error
    assert torch.equal(latent(comfy_server, name), latent(comfy_server, exact))


def test_only_the_first_steps_are_dense_when_the_low_noise_expert_has_most(comfy_server):
    """Its first step is dense only if it is among the first of the run."""
    options: dict[str, Any] = {}
    prompt: Prompt = {**random_text(64, 20), **VIDEO, **experts()}
    for number, label in enumerate(("high", "low")):
        prompt |= sparse(("experts", number), label, "mostly_low", label=label)
        options[f"model_{label}"] = (label, 0)
    settings = {"steps": 10, "shift": 1.0, "cfg_high": 3.0, "cfg_low": 3.0, **LINKS}
    prompt |= moe_sampler("mostly_low", **options, **settings)
    passes, _ = run(comfy_server, prompt, "mostly_low")
    levels = sorted({line["sigma"] for line in passes}, reverse=True)
    assert len(levels) == 10
    low = [line["sigma"] for line in passes if line["label"] == "low"]
    assert levels.index(max(low)) <= 2
    for line in passes:
        assert line["layers"] == (DENSE if line["sigma"] in levels[:2] else SPARSE)


def on_one_model(name: str, *, video: Prompt = VIDEO, **options: Any) -> Prompt:
    prompt = {**random_text(), **video, **model(T2V_HIGH)}
    return prompt | sparse(("model", 0), "sparse", name, **options)


@pytest.mark.parametrize("streamed", [False, True])
def test_under_a_stock_sampler(comfy_server, streamed):
    name = f"stock_{streamed}"
    prompt = on_one_model(name)
    if streamed:
        prompt |= {**memory(blocks_to_swap=2), **model(T2V_HIGH, memory=("memory", 0))}
    passes, texts = run(comfy_server, prompt | ksampler(("sparse", 0), name, steps=10), name)
    assert layers(passes) == 2 * [DENSE] + 8 * [SPARSE]
    assert FALLBACK not in texts


def test_with_block_patches_of_other_nodes(comfy_server):
    prompt = on_one_model("patched")
    patch = {"model": ("sparse", 0), "name": "patched_blocks", "call": -1}
    prompt["blocks"] = node("WanDuetTestInterrupt", **patch)
    (comfy_server.output / "patched_blocks.jsonl").unlink(missing_ok=True)
    passes, _ = run(comfy_server, prompt | ksampler(("blocks", 0), "patched", steps=5), "patched")
    assert layers(passes) == [DENSE] + 4 * [SPARSE]
    seen = (comfy_server.output / "patched_blocks.jsonl").read_text().splitlines()
    assert [json.loads(line)[1] for line in seen] == 5 * [0, 1]


@pytest.mark.slow
def test_in_compiled_blocks(comfy_server):
    if not any(map(shutil.which, ("g++", "clang++", "cl"))):
        missing("No C++ compiler. Install g++.", "WANDUET_REQUIRE_COMFY")
    prompt = on_one_model("fused")
    prompt["compiled"] = node("WanDuetCompile", model=("sparse", 0), mode="default")
    passes, _ = run(comfy_server, prompt | ksampler(("compiled", 0), "fused", steps=5), "fused")
    assert layers(passes) == [DENSE] + 4 * [SPARSE]
    assert "It runs uncompiled" not in comfy_server.log()


def test_passes_between_the_steps_are_dense(comfy_server):
    prompt = on_one_model("between")
    sampler = ksampler(("sparse", 0), "between", steps=5, sampler_name="dpm_2")
    passes, _ = run(comfy_server, prompt | sampler, "between")
    assert layers(passes) == [DENSE, DENSE, *(3 * [SPARSE, DENSE]), SPARSE]


def test_small_videos_are_dense(comfy_server):
    prompt = on_one_model("small", video=SMALL_VIDEO)
    passes, _ = run(comfy_server, prompt | ksampler(("sparse", 0), "small", steps=5), "small")
    assert layers(passes) == 5 * [DENSE]


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_the_first_sparse_pass_of_a_run_is_checked(comfy_server, cfg):
    name, exact = f"nan_{cfg:g}", f"no_nan_{cfg:g}"
    prompt = on_one_model(name, broken=True)
    sampler = ksampler(("sparse", 0), name, steps=5, cfg=cfg)
    passes, texts = run(comfy_server, prompt | sampler, name)
    assert texts == [FALLBACK]
    kinds = layers(passes)
    # The repeated pass, with sdpa in place of the sparse layer.
    assert kinds.count([*SPARSE, "dense"]) == 1
    assert kinds.index([*SPARSE, "dense"]) == kinds.count(DENSE)
    result = comfy_server.run(
        prompt | ksampler(("model", 0), exact, steps=5, cfg=cfg) | save(exact, latent=(exact, 0))
    )
    assert result.status == "success", result.error
    assert torch.equal(latent(comfy_server, name), latent(comfy_server, exact))
