"""The weights engine behind our MODEL: the same numbers as with weights in place."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from .graphs import (
    I2V,
    T2V,
    TI2V,
    VAE_22,
    Prompt,
    experts,
    image_to_video,
    memory,
    model,
    moe_sampler,
    node,
    prompts,
    random_text,
    vae,
)
from .server import ComfyServer, on_gpu
from .stock import (
    LORA,
    ROUNDING,
    T2V_HIGH,
    difference,
    empty_latent,
    ksampler,
    relative,
    run_to_tensors,
    shifted,
)

pytestmark = pytest.mark.comfy

LINKS = {"positive": ("positive", 0), "negative": ("negative", 0), "latent_image": ("latent", 0)}
INPUTS: Prompt = {**random_text(64, 20), **empty_latent()}
FP8 = "toy_t2v_high_noise_scaled_fp8.safetensors"
LIMITS: list[dict[str, Any]] = [
    {"blocks_to_swap": 0},
    {"blocks_to_swap": 1, "pinned_ram_gb": 1.0},
    {"blocks_to_swap": 2, "prefetch_blocks": 0, "pinned_ram_gb": 0.0},
    {"vram_budget_gb": 4.0},
]


def limited(prompt: Prompt, limits: dict[str, Any] | None) -> Prompt:
    """Has every loader of ours use the engine, if there are limits."""
    if limits is None:
        return prompt
    loaders = ("WanDuetExpertLoader", "WanDuetModelLoader")
    linked = {
        key: {**value, "inputs": {**value["inputs"], "memory": ["memory", 0]}}
        for key, value in prompt.items()
        if value["class_type"] in loaders
    }
    return {**prompt, **linked, **memory(**limits)}


def both_ways(
    server: ComfyServer, prompt: Prompt, limits: dict[str, Any], name: str = "sampler"
) -> tuple[Tensor, Tensor]:
    """Returns a latent sampled through the engine, and one without it."""
    results = []
    for choice in (limits, None):
        server.free()
        before = server.log().count("blocks streamed") + server.log().count("blocks resident")
        results.append(run_to_tensors(server, limited(prompt, choice), {name: (name, 0)})[name])
        after = server.log().count("blocks streamed") + server.log().count("blocks resident")
        assert (after > before) == (choice is not None)
    return results[0], results[1]


@pytest.mark.parametrize(
    ("limits", "cfg"), [*((limits, 3.0) for limits in LIMITS), (LIMITS[1], 1.0)]
)
def test_both_experts(comfy_server: ComfyServer, limits: dict[str, Any], cfg: float):
    settings = {"shift": 8.0, "sampler": "unipc", "cfg_high": cfg, "cfg_low": cfg, **LINKS}
    prompt = {**INPUTS, **experts(), **moe_sampler(**settings)}
    engine, plain = both_ways(comfy_server, prompt, limits)
    assert torch.equal(engine, plain)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", [T2V[0], FP8])
def test_weights_as_they_lie_in_the_file(comfy_server: ComfyServer, name: str, precision: str):
    prompt = {**INPUTS, **model(name, precision=precision)}
    prompt |= moe_sampler(model_high=("model", 0), model_low=None, steps=2, **LINKS)
    engine, plain = both_ways(comfy_server, prompt, {"blocks_to_swap": 2})
    assert torch.equal(engine, plain)


@pytest.mark.parametrize("limits", LIMITS[:3])
def test_two_loaders_have_an_engine_each(comfy_server: ComfyServer, limits: dict[str, Any]):
    prompt = {**INPUTS, **model(T2V[0], "high"), **model(T2V[1], "low")}
    links = {"model_high": ("high", 0), "model_low": ("low", 0), **LINKS}
    prompt |= moe_sampler(shift=8.0, **links)
    engine, plain = both_ways(comfy_server, prompt, limits)
    assert torch.equal(engine, plain)


@pytest.mark.parametrize("kind", ["i2v", "ti2v"])
def test_images(comfy_server: ComfyServer, kind: str):
    image = {"seed": 1, "width": 64, "height": 64, "count": 1, "channels": 3}
    prompt = {**prompts(), "image": node("WanDuetTestImage", **image)}
    size = {"width": 64, "height": 64, "start_image": ("image", 0)}
    if kind == "i2v":
        prompt |= {**vae(), **experts(I2V), **image_to_video(**size), **moe_sampler()}
    else:
        links = {"model_high": ("model", 0), "model_low": None}
        prompt |= {**vae(VAE_22), **model(TI2V), **image_to_video(**size), **moe_sampler(**links)}
    engine, plain = both_ways(comfy_server, prompt, {"blocks_to_swap": 1})
    assert torch.equal(engine, plain)


def test_stock_samplers(comfy_server: ComfyServer):
    prompt = {**empty_latent(), **model(T2V_HIGH, "ours")}
    prompt |= shifted(("ours", 0), "shift", 8.0)
    prompt |= ksampler(("shift", 0), "sampler", cfg=3.0, sampler_name="dpmpp_2m")
    engine, plain = both_ways(comfy_server, prompt, {"blocks_to_swap": 1})
    assert torch.equal(engine, plain)


def test_a_solver_that_calls_the_model_twice_per_step(comfy_server: ComfyServer):
    prompt = {**INPUTS, **experts(), **moe_sampler(shift=8.0, sampler="heun", **LINKS)}
    engine, plain = both_ways(comfy_server, prompt, {"blocks_to_swap": 2})
    assert torch.equal(engine, plain)


@pytest.mark.parametrize(
    ("name", "precision", "swap"),
    [
        *((T2V[0], "fp32", 2), (T2V[0], "bf16", 0), (T2V[0], "bf16", 2)),
        *((FP8, "fp32", 0), (FP8, "bf16", 2)),
    ],
)
def test_loras(comfy_server: ComfyServer, name: str, precision: str, swap: int):
    prompt = {**INPUTS, **model(name, precision=precision)}
    previous = "model"
    for strength in (1.0, -0.4):
        lora = {"lora_name": LORA, "strength_model": strength}
        prompt[f"lora_{strength}"] = node("LoraLoaderModelOnly", model=(previous, 0), **lora)
        previous = f"lora_{strength}"
    links = {"model_high": (previous, 0), "model_low": None, "steps": 2, **LINKS}
    prompt |= moe_sampler(**links)
    engine, plain = both_ways(comfy_server, prompt, {"blocks_to_swap": swap})
    # Newer cores add LoRAs in 16 bit on a GPU, we in fp32.
    assert difference(engine, plain) <= (0.05 if on_gpu() else 0)
    prompt |= moe_sampler(**{**links, "model_high": ("model", 0)})
    bare = run_to_tensors(comfy_server, prompt, {"sampler": ("sampler", 0)})["sampler"]
    assert difference(bare, plain) > 0.01


def test_block_patches_and_replaced_parts(comfy_server: ComfyServer):
    skip = {"double_layers": "1", "single_layers": "", "scale": 2.0, "start_percent": 0.0}
    skip |= {"end_percent": 1.0, "rescaling_scale": 0.0}
    prompt = {**INPUTS, **model(T2V[0])}
    prompt["skip"] = node("SkipLayerGuidanceDiT", model=("model", 0), **skip)
    record = {"label": "x", "name": "memory_calls"}
    prompt["record"] = node("WanDuetTestRecordCalls", model=("skip", 0), **record)
    prompt |= ksampler(("record", 0), "sampler", cfg=3.0)
    engine, plain = both_ways(comfy_server, prompt, {"blocks_to_swap": 2})
    assert torch.equal(engine, plain)


def test_skipped_calls(comfy_server: ComfyServer):
    options = {"start_percent": 0.0, "end_percent": 1.0, "verbose": False}
    prompt = {**INPUTS, **experts()}
    for index, name in enumerate(("high", "low")):
        cache = {"model": ("experts", index), "reuse_threshold": 3.0, **options}
        prompt[name] = node("EasyCache", **cache)
    links = {"model_high": ("high", 0), "model_low": ("low", 0), "steps": 10, "shift": 8.0}
    prompt |= moe_sampler(**links, **LINKS)
    engine, plain = both_ways(comfy_server, prompt, {"blocks_to_swap": 2})
    assert torch.equal(engine, plain)


@pytest.mark.parametrize("name", [T2V[0], FP8])
def test_hook_loras_of_one_prompt(comfy_server: ComfyServer, name: str):
    """A LoRA that belongs to a conditioning and comes in over the steps."""
    prompt = {**INPUTS, **model(name)}
    hook = {"lora_name": LORA, "strength_model": 1.0, "strength_clip": 0.0}
    frames = {"strength_start": 0.2, "strength_end": 1.0, "interpolation": "linear"}
    frames |= {
        "start_percent": 0.0,
        "end_percent": 1.0,
        "keyframes_count": 4,
        "print_keyframes": False,
    }
    prompt["hook"] = node("CreateHookLora", **hook)
    prompt["frames"] = node("CreateHookKeyframesInterpolated", **frames)
    prompt["keyed"] = node("SetHookKeyframes", hooks=("hook", 0), hook_kf=("frames", 0))
    properties = {"strength": 1.0, "set_cond_area": "default", "hooks": ("keyed", 0)}
    prompt["hooked"] = node("ConditioningSetProperties", cond_NEW=("positive", 0), **properties)
    prompt |= ksampler(("model", 0), "sampler", cfg=3.0, positive=("hooked", 0), steps=4)
    engine, plain = both_ways(comfy_server, prompt, {"blocks_to_swap": 1})
    assert relative(engine, plain) < ROUNDING
    prompt |= ksampler(("model", 0), "sampler", cfg=3.0, steps=4)
    bare = run_to_tensors(comfy_server, prompt, {"sampler": ("sampler", 0)})["sampler"]
    assert difference(bare, plain) > 0.01


def test_the_plan_is_shown_before_sampling(comfy_server: ComfyServer):
    prompt = limited({**INPUTS, **experts()}, {"blocks_to_swap": 1, "pinned_ram_gb": 0.0})
    prompt |= moe_sampler(shift=8.0, seed=31, **LINKS)
    prompt |= {"save": node("WanDuetTestSaveTensors", name="plan", latent=("sampler", 0))}
    result = comfy_server.run(prompt)
    assert result.status == "success", result.error
    texts = result.texts("sampler")
    assert "High" in texts[0]
    assert all(text.startswith(texts[0]) for text in texts)
    assert re.fullmatch(
        r"1 of 2 blocks streamed, peak 0\.1 of [\d.]+ GiB, RAM 0\.0 GiB pinned, "
        r"about [\d.]+ s per step",
        texts[1].splitlines()[-1],
    )
    kinds = [m.type for m in result.messages]
    assert kinds.index("progress") > kinds.index("progress_text") + 1


def test_the_plan_is_shown_at_stock_samplers(comfy_server: ComfyServer):
    prompt = limited({**INPUTS, **model(T2V[0])}, {"blocks_to_swap": 2})
    prompt |= ksampler(("model", 0), "sampler", seed=32)
    prompt |= {"save": node("WanDuetTestSaveTensors", name="plan", latent=("sampler", 0))}
    (text,) = comfy_server.run(prompt).texts("sampler")
    assert text.startswith("2 of 2 blocks streamed")
    # Guidance is not known there, with which a step would be two of them.
    assert text.endswith(" s per forward pass")


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"blocks_to_swap": 3}, "blocks_to_swap cannot be used. Got 3, need 0 to 2."),
        ({"prefetch_blocks": 9}, "prefetch_blocks cannot be used. Got 9, need 0 to 2."),
        ({"vram_budget_gb": 0.1}, "The video does not fit into the GPU's memory. Got 0.10 GiB"),
    ],
)
def test_impossible_limits(comfy_server: ComfyServer, limits: dict[str, Any], message: str):
    prompt = limited({**INPUTS, **experts()}, limits)
    prompt |= moe_sampler(seed=33, **LINKS)
    prompt |= {"save": node("WanDuetTestSaveTensors", name="no", latent=("sampler", 0))}
    error = comfy_server.run(prompt).error
    assert error is not None
    assert error["exception_type"].endswith("WanDuetError")
    assert error["exception_message"].startswith(message)


@pytest.mark.parametrize("limits", [{"blocks_to_swap": 1}, None])
def test_copies_for_other_devices(comfy_server: ComfyServer, limits: dict[str, Any] | None):
    """Both experts of two precisions, with a LoRA, by the MODEL's own factory."""
    lora = {"lora_name": LORA, "strength_model": 1.0}
    prompt = {**INPUTS, **limited(experts((FP8, T2V[1])), limits)}
    for number in range(2):
        source = f"lora_{number}"
        prompt[source] = node("LoraLoaderModelOnly", model=("experts", number), **lora)
        prompt[f"copy_{number}"] = node("WanDuetTestCopyToDevice", model=(source, 0))
    pairs = {"own": ("lora", 0), "device": ("copy", 0), "deep": ("copy", 1)}
    for name, (source, output) in pairs.items():
        links = {"model_high": (f"{source}_0", output), "model_low": (f"{source}_1", output)}
        prompt |= moe_sampler(name, **links, **LINKS, shift=8.0)
    # Again, after the others have run.
    prompt |= moe_sampler(
        "again", model_high=("lora_0", 0), model_low=("lora_1", 0), **LINKS, shift=8.0, seed=8
    )
    prompt |= moe_sampler(
        "moved", model_high=("copy_0", 0), model_low=("copy_1", 0), **LINKS, shift=8.0, seed=8
    )
    links = {"model_high": ("lora_0", 0), "model_low": ("lora_1", 0)}
    prompt["two"] = node("WanDuetTestOnTwoDevices", **links)
    apart = {"model_high": ("two", 0), "model_low": ("two", 1)}
    prompt |= moe_sampler("apart", **apart, **LINKS, shift=8.0)
    names = (*pairs, "apart", "again", "moved")
    saved = run_to_tensors(comfy_server, prompt, {n: (n, 0) for n in names})
    assert torch.equal(saved["own"], saved["device"])
    assert torch.equal(saved["own"], saved["apart"])
    assert torch.equal(saved["own"], saved["deep"])
    assert torch.equal(saved["again"], saved["moved"])
    assert not torch.equal(saved["own"], saved["again"])
