"""ComfyUI's memory manager and our weights engine: room is made, taken again, and never lost."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from .graphs import T2V, Prompt, experts, memory, model, moe_sampler, node, random_text, save
from .server import ComfyServer
from .stock import LORA, difference, empty_latent, ksampler, latent

pytestmark = pytest.mark.comfy

LINKS = {"positive": ("positive", 0), "negative": ("negative", 0), "latent_image": ("latent", 0)}
INPUTS: Prompt = {**random_text(64, 20), **empty_latent()}


def pair(seed: int, **limits: Any) -> Prompt:
    """Samples with both experts through the engine."""
    loaded = {**memory(**limits), **experts(memory=("memory", 0))}
    return {**INPUTS, **loaded, **moe_sampler(shift=8.0, seed=seed, **LINKS)}


def single(seed: int, **limits: Any) -> Prompt:
    """Samples with one model through an engine of its own."""
    loaded = {**memory(**limits), **model(T2V[0], memory=("memory", 0))}
    return {**INPUTS, **loaded, **ksampler(("model", 0), "sampler", seed=seed)}


def run(server: ComfyServer, prompt: Prompt, name: str) -> Tensor:
    result = server.run({**prompt, **save(name, latent=("sampler", 0))})
    assert result.status == "success", result.error
    return latent(server, name)


def looked(server: ComfyServer, prompt: Prompt, nbytes: int, name: str) -> dict[str, Any]:
    """Samples, takes memory away afterwards, and returns what was seen."""
    loader = "experts" if "experts" in prompt else "model"
    take = node(
        "WanDuetTestTakeMemory", model=(loader, 0), latent=("sampler", 0), nbytes=nbytes, name=name
    )
    result = server.run({**prompt, "take": take, **save(name, latent=("take", 0))})
    assert result.status == "success", result.error
    return lines(server, name)[-1]


def lines(server: ComfyServer, name: str) -> list[Any]:
    path = server.output / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_memory_is_given_back_and_taken_again(comfy_server: ComfyServer):
    comfy_server.free()
    expected = run(comfy_server, pair(41, blocks_to_swap=0), "expected")
    state = looked(comfy_server, pair(42, blocks_to_swap=0), 0, "look")
    # All of it: the two experts are one model to ComfyUI.
    assert state["entries"] == 1
    assert state["loaded"] == state["size"]

    part = state["size"] // 4
    state = looked(comfy_server, pair(43, blocks_to_swap=0), part, "part")
    assert 0 < state["loaded"] <= state["before"] - part
    assert torch.equal(run(comfy_server, pair(41, blocks_to_swap=0), "again"), expected)

    state = looked(comfy_server, pair(44, blocks_to_swap=0), 1 << 60, "whole")
    assert state["before"] == state["size"]
    assert state["loaded"] == state["pinned"] == state["entries"] - 1 == 0
    assert torch.equal(run(comfy_server, pair(41, blocks_to_swap=0), "once_more"), expected)


def test_two_experts_that_fit_stay(comfy_server: ComfyServer):
    """Nothing is fetched for the second prompt, not even at the switch."""
    comfy_server.free()
    run(comfy_server, pair(51, blocks_to_swap=0), "first")
    state = looked(comfy_server, pair(52, blocks_to_swap=0), 0, "stay")
    assert state["plan"].startswith("all 2 blocks resident")
    again = looked(comfy_server, pair(53, blocks_to_swap=0), 0, "stay")
    assert len(again["arrivals"]) == 4
    assert again["arrivals"] == state["arrivals"]


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_the_low_noise_expert_travels_during_the_last_high_noise_step(
    comfy_server: ComfyServer, cfg: float
):
    name = f"held_{cfg}"
    (comfy_server.output / f"{name}.jsonl").unlink(missing_ok=True)
    prompt = pair(55, blocks_to_swap=2)
    prompt["record"] = node("WanDuetTestRecordHeld", model=("experts", 0), name=name)
    changed = {"model_high": ["record", 0], "cfg_high": cfg, "cfg_low": cfg}
    prompt["sampler"]["inputs"].update(changed)
    run(comfy_server, prompt, "travels")
    high, low = [[0, 0], [0, 1]], [[1, 0], [1, 1]]
    assert lines(comfy_server, name) == [high, high, low]


def test_unloading_by_request(comfy_server: ComfyServer):
    expected = run(comfy_server, pair(61, blocks_to_swap=1), "before_free")
    for request in ({"free_memory": False}, {"unload_models": True}):
        comfy_server.free(**request)
        state = looked(comfy_server, single(62, blocks_to_swap=2), 0, "other")
        assert state["entries"] == 1
        assert torch.equal(run(comfy_server, pair(61, blocks_to_swap=1), "freed"), expected)


def test_nothing_is_left_of_models_that_are_gone(comfy_server: ComfyServer):
    """Without a collection of garbage: there must be no cycles."""
    comfy_server.free()
    for seed, (kind, loader) in enumerate(((pair, "experts"), (single, "model"))):
        prompt = kind(70 + seed, blocks_to_swap=1)
        prompt["watch"] = node("WanDuetTestWatch", model=(loader, 0), name=loader)
        key = "model_high" if kind is pair else "model"
        prompt["sampler"]["inputs"][key] = ["watch", 0]
        prompt["held"] = node("WanDuetTestWatched", name="held", after=("sampler", 0))
        run(comfy_server, prompt, "watched")
        held = lines(comfy_server, "held")[-1]
        assert f"{loader} pool" in held["alive"]
        assert held["threads"]
        assert held["files"]
    comfy_server.free()
    assert watched(comfy_server, "gone") == {"alive": [], "threads": [], "files": []}


def test_a_load_that_fails_leaves_no_file_open(comfy_server: ComfyServer):
    comfy_server.free()
    for seed in range(2):
        prompt = {**pair(seed, blocks_to_swap=40), **save("never", latent=("sampler", 0))}
        error = comfy_server.run(prompt).error
        assert error is not None
        assert error["node_id"] == "experts"
    assert watched(comfy_server, "failed") == {"alive": [], "threads": [], "files": []}


def watched(server: ComfyServer, name: str) -> dict[str, Any]:
    prompt = {"watched": node("WanDuetTestWatched", name=name)}
    assert server.run(prompt).status == "success"
    return lines(server, name)[-1]


def test_another_lora_strength_does_not_load_the_file_again(comfy_server: ComfyServer):
    comfy_server.free()

    def patched(strength: float) -> Prompt:
        prompt = pair(81, blocks_to_swap=1)
        lora = {"lora_name": LORA, "strength_model": strength}
        prompt["lora"] = node("LoraLoaderModelOnly", model=("experts", 0), **lora)
        prompt["sampler"]["inputs"]["model_high"] = ["lora", 0]
        return prompt

    loads = comfy_server.log().count("Loaded ")
    one, half = (run(comfy_server, patched(s), "lora") for s in (1.0, 0.5))
    assert comfy_server.log().count("Loaded ") == loads + 2
    assert not torch.equal(one, half)
    assert torch.equal(run(comfy_server, patched(1.0), "lora_again"), one)
    bare = run(comfy_server, pair(81, blocks_to_swap=1), "no_lora")
    comfy_server.free()
    assert torch.equal(run(comfy_server, pair(81, blocks_to_swap=1), "never_lora"), bare)


@pytest.mark.parametrize("call", [0, 3])
def test_an_interrupted_run_leaves_a_usable_engine(comfy_server: ComfyServer, call: int):
    comfy_server.free()
    name = f"engine_interrupted_{call}"
    (comfy_server.output / f"{name}.jsonl").unlink(missing_ok=True)
    expert, index = ("high", 0) if call == 0 else ("low", 1)
    expected = run(comfy_server, pair(91, blocks_to_swap=1), "uninterrupted")
    prompt = pair(92, blocks_to_swap=1)
    interrupt = {"name": name, "call": 0}
    prompt["stop"] = node("WanDuetTestInterrupt", model=("experts", index), **interrupt)
    prompt["sampler"]["inputs"][f"model_{expert}"] = ["stop", 0]
    prompt["sampler"]["inputs"]["shift"] = 12.0
    stopped = comfy_server.run({**prompt, **save(name, latent=("sampler", 0))})
    assert stopped.status == "interrupted"
    assert torch.equal(run(comfy_server, pair(91, blocks_to_swap=1), "after_interrupt"), expected)


def test_running_out_of_memory_once(comfy_server: ComfyServer):
    comfy_server.free()
    limits = {"vram_budget_gb": 4.0}
    expected = run(comfy_server, pair(97, **limits), "enough")
    prompt = pair(97, **limits)
    prompt["full"] = node("WanDuetTestOutOfMemory", model=("experts", 0), times=1)
    prompt["sampler"]["inputs"] |= {"model_high": ["full", 0], "end_at_step": 1}
    state = looked(comfy_server, prompt, 0, "out_once")
    assert state["plan"].startswith("2 of 2 blocks streamed")
    prompt["sampler"]["inputs"]["end_at_step"] = 10000
    assert torch.equal(run(comfy_server, prompt, "enough"), expected)


def test_running_out_of_memory_for_good(comfy_server: ComfyServer):
    comfy_server.free()
    limits = {"vram_budget_gb": 4.0}
    prompt = single(98, **limits)
    prompt["full"] = node("WanDuetTestOutOfMemory", model=("model", 0), times=1000)
    links = {"model_high": ("full", 0), "model_low": None, **LINKS}
    failing = {**prompt, **moe_sampler(**links), **save("out", latent=("sampler", 0))}
    error = comfy_server.run(failing).error
    assert error is not None
    assert error["exception_type"] == "wanduet.WanDuetError"
    assert error["exception_message"].startswith("The GPU ran out of memory although all blocks")
    del prompt["full"], prompt["sampler"]
    prompt["sampler"] = node("EmptyHunyuanLatentVideo", width=64, height=48, length=5, batch_size=1)
    assert looked(comfy_server, prompt, 0, "out_for_good")["loaded"] == 0


def test_a_model_with_loras_is_not_saved_without_them(comfy_server: ComfyServer):
    prompt = {**memory(blocks_to_swap=1), **model(T2V[0], memory=("memory", 0))}
    lora = {"lora_name": LORA, "strength_model": 1.0}
    prompt["lora"] = node("LoraLoaderModelOnly", model=("model", 0), **lora)
    prompt["save"] = node("ModelSave", model=("lora", 0), filename_prefix="saved")
    result = comfy_server.run(prompt)
    assert result.status == "success", result.error
    (path,) = comfy_server.output.glob("saved*.safetensors")
    key = "blocks.0.self_attn.q.weight"
    saved = next(tensor for name, tensor in load_file(path).items() if name.endswith(key))
    original = load_file(comfy_server.base / "models" / "diffusion_models" / T2V[0])[key]
    assert difference(saved.float(), original.float()) > 0.01


def test_two_workflows_alternate(comfy_server: ComfyServer):
    comfy_server.free()
    prompts = {
        (kind, seed): kind(seed, blocks_to_swap=1) for kind in (pair, single) for seed in (95, 96)
    }
    expected = {key: run(comfy_server, prompt, "in_turn") for key, prompt in prompts.items()}
    # Newer cores remember all results while there is RAM.
    comfy_server.free()
    for seed in (95, 96):
        for kind in (pair, single):
            got = run(comfy_server, prompts[kind, seed], f"alternating_{seed}")
            assert torch.equal(got, expected[kind, seed])
