"""Our sampler as a guest of ComfyUI: progress, previews, cancelling, caching, untouched inputs."""

import json
from typing import Any

import pytest
from safetensors.torch import load_file

from .graphs import Prompt, experts, moe_sampler, node, random_text, save
from .server import ComfyServer
from .stock import ROUNDING, empty_latent, relative

pytestmark = pytest.mark.comfy

LINKS = {
    "positive": ("positive", 0),
    "negative": ("negative", 0),
    "latent_image": ("latent", 0),
    "sampler": "unipc",
}
BASE: Prompt = {**experts(), **random_text(64, 20), **empty_latent()}


def lines(server: ComfyServer, name: str) -> list[Any]:
    path = server.output / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_progress_bar_with_previews_and_a_plan(comfy_server: ComfyServer):
    options = {"steps": 9, "shift": 8.0, "seed": 11, "cfg_low": 2.0}
    prompt = {**BASE, **moe_sampler(**LINKS, **options), **save("bar", latent=("sampler", 0))}
    result = comfy_server.run(prompt)

    assert result.status == "success", result.error
    assert result.progress("sampler") == [(step, 9) for step in range(1, 10)]
    assert len([p for p in result.previews if p.node_id == "sampler"]) == 9
    (plan,) = result.texts("sampler")
    assert "High 5 | Low 4" in plan
    assert "shift 8" in plan
    assert "cfg 1 | 2" in plan

    again = comfy_server.run(prompt)
    assert again.status == "success"
    assert "sampler" not in again.executed
    prompt["sampler"]["inputs"]["seed"] = 12
    other = comfy_server.run(prompt)
    assert "sampler" in other.executed
    assert "experts" not in other.executed


@pytest.mark.parametrize("call", [0, 3])
def test_cancelling_stops_within_a_block(comfy_server: ComfyServer, call: int):
    """Call 0 is in the high-noise expert, call 3 the first of the low-noise expert."""
    name = f"interrupted_{call}"
    (comfy_server.output / f"{name}.jsonl").unlink(missing_ok=True)
    expert = "high" if call == 0 else "low"
    index = {"high": 0, "low": 1}[expert]
    interrupting = node("WanDuetTestInterrupt", model=("experts", index), name=name, call=0)
    plain = {"seed": 21 + call, "steps": 4, "shift": 12.0}
    prompt = {**BASE, "patched": interrupting}
    prompt |= moe_sampler(**{**LINKS, **plain, f"model_{expert}": ("patched", 0)})
    prompt |= save(name, latent=("sampler", 0))
    stopped = comfy_server.run(prompt)

    assert stopped.status == "interrupted"
    assert lines(comfy_server, name) == [[0, 0]]
    assert len(stopped.progress("sampler")) == call

    prompt = {**BASE, **moe_sampler(**LINKS, **plain), **save(name, latent=("sampler", 0))}
    assert comfy_server.run(prompt).status == "success"
    first = load_file(comfy_server.output / f"{name}.safetensors")["samples"]
    comfy_server.free()
    prompt |= save(f"{name}_again", latent=("sampler", 0))
    assert comfy_server.run(prompt).status == "success"
    again = load_file(comfy_server.output / f"{name}_again.safetensors")["samples"]
    assert relative(first, again) <= ROUNDING


@pytest.mark.parametrize("ends", ["finished", "interrupted", "failed"])
def test_both_experts_are_cleaned_up(comfy_server: ComfyServer, ends: str):
    name = f"cleaned_{ends}"
    for path in comfy_server.output.glob(f"{name}*"):
        path.unlink()
    low = ("experts", 1)
    prompt = {**BASE}
    if ends == "interrupted":
        prompt["stop"] = node("WanDuetTestInterrupt", model=low, name=f"{name}_blocks", call=0)
        low = ("stop", 0)
    if ends == "failed":
        prompt["stop"] = node("WanDuetTestOutOfMemory", model=low, times=1000)
        low = ("stop", 0)
    recorded = {"high": ("experts", 0), "low": low}
    for label, link in recorded.items():
        record = {"model": link, "label": label, "name": name}
        prompt[label] = node("WanDuetTestRecordCalls", **record)
    links = {"model_high": ("high", 0), "model_low": ("low", 0), **LINKS}
    prompt |= moe_sampler(shift=12.0, **links) | save(name, latent=("sampler", 0))
    status = comfy_server.run(prompt).status

    assert status == {"finished": "success", "failed": "error"}.get(ends, ends)
    assert lines(comfy_server, f"{name}_uses") == ["high", "low"]
    # ComfyUI's own guider leaves what the first expert brought along, unless all went well.
    first = ["high", "high's other"] if ends == "finished" else ["high"]
    assert sorted(lines(comfy_server, f"{name}_ends")) == [*first, "low", "low's other"]


def test_inputs_are_left_as_they_were(comfy_server: ComfyServer):
    for suffix in ("before", "after"):
        for who in ("high", "low"):
            (comfy_server.output / f"{who}_{suffix}.jsonl").unlink(missing_ok=True)
    lora = {"lora_name": "toy_lora.safetensors", "strength_model": 1.0}
    changed = {"model_high": ("high", 0), "model_low": ("low", 0), "latent_image": ("b2", 0)}
    changed |= {"sampler": "euler_cfg_pp", "positive": ("hooked", 0)}
    properties = {"strength": 1.0, "set_cond_area": "default", "hooks": ("hook", 0)}
    prompt = {
        **BASE,
        "hook": node("CreateHookLora", strength_clip=0.0, **lora),
        "hooked": node("ConditioningSetProperties", cond_NEW=("positive", 0), **properties),
        "high": node("LoraLoaderModelOnly", model=("experts", 0), **lora),
        "low": node("ModelSamplingSD3", model=("experts", 1), shift=3.0),
        "b1": state("high", ("latent", 0), "high_before"),
        "b2": state("low", ("b1", 0), "low_before"),
        **moe_sampler(**{**LINKS, **changed}),
        "a1": state("high", ("sampler", 0), "high_after"),
        "a2": state("low", ("a1", 0), "low_after"),
        **save("untouched", latent=("a2", 0)),
    }
    result = comfy_server.run(prompt)

    assert result.status == "success", result.error
    for who in ("high", "low"):
        (before,), (after,) = (lines(comfy_server, f"{who}_{s}") for s in ("before", "after"))
        assert before == after
    (high,) = lines(comfy_server, "high_before")
    assert "diffusion_model.blocks.0.self_attn.q.weight" in high["patches"]


def test_the_largest_seed(comfy_server: ComfyServer):
    """Samplers that add noise count one further, which has no room in 64 bits."""
    options = {**LINKS, "sampler": "euler_ancestral", "seed": 2**64 - 1, "steps": 2}
    prompt = {**BASE, **moe_sampler(**options), **save("largest", latent=("sampler", 0))}
    result = comfy_server.run(prompt)
    assert result.status == "success", result.error


def state(model: str, latent: tuple[str, int], name: str) -> dict[str, Any]:
    """A node that passes a latent on and writes what the MODEL holds at this moment."""
    return node("WanDuetTestModelState", model=(model, 0), latent=latent, name=name)
