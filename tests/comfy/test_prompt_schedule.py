"""*Wan 2.2 Prompt Schedule* on MODELs of ours and of core, beside its formula for every token."""

import json

import pytest
import torch

from .graphs import TEXT_ENCODER, Prompt, memory, model, moe_sampler, node, save, stock_model
from .server import ComfyServer
from .stock import (
    LORA,
    ROUNDING,
    T2V_HIGH,
    T2V_LOW,
    difference,
    empty_latent,
    ksampler,
    relative,
    run_to_tensors,
)
from .test_other_nodes_core import widgets

pytestmark = pytest.mark.comfy

EFFECT = 1e-3
SIZES = {"width": 32, "height": 32, "length": 17}
FIRST, SECOND = "a red ball rolls", "the ball bounces high"
WINDOWS = {"context_length": 9, "context_overlap": 5}
COMPARED = ("timed", "both", "nag", "long")
WEIGHTS = [1.0, 1.0, 0.875, 0.125, 0.0]
"""Of the first prompt in five latent frames: a ramp over four frames of the video at frame 9."""


def schedule(node_id: str, prompts: str, transition: float = 4.0) -> Prompt:
    inputs = {"prompts": prompts, "negative": "", "transition": transition, "fps": 16.0}
    return {node_id: node("WanDuetPromptSchedule", clip=("wide", 0), **inputs)}


def text() -> Prompt:
    """Prompts one by one, ("first", 0), ("second", 0), and over time, ("timed", 0)."""
    encode = {"clip": ("wide", 0), "negative": ""}
    return {
        "clip": node("WanDuetTextEncoderLoader", text_encoder_name=TEXT_ENCODER),
        "wide": node("WanDuetTestWideClip", clip=("clip", 0)),
        "first": node("WanDuetTextEncode", positive=FIRST, **encode),
        "second": node("WanDuetTextEncode", positive=SECOND, **encode),
        **schedule("timed", f"0-8: {FIRST}\n9-: {SECOND}"),
        **schedule("single", f"0-16: {FIRST}"),
        **schedule("unused", f"0-15: {FIRST}\n16-17: {SECOND}\n40-: {SECOND}", 0.0),
        **empty_latent(**SIZES),
    }


def pair(who: str) -> Prompt:
    """Experts of core's loader, or of ours with one of two blocks streamed; a LoRA on each."""
    prompt: Prompt = memory(blocks_to_swap=1)
    for expert, file in (("high", T2V_HIGH), ("low", T2V_LOW)):
        name = f"{who}_{expert}_file"
        more = {"memory": ["memory", 0]}
        prompt |= stock_model(file, name) if who == "stock" else model(file, name, **more)
        lora = {"lora_name": LORA, "strength_model": 1.0}
        prompt[f"{who}_{expert}"] = node("LoraLoaderModelOnly", model=(name, 0), **lora)
    return prompt


def of(name: str) -> dict[str, tuple[str, int]]:
    return {"positive": (name, 0), "negative": (name, 1)}


def test_one_formula_for_both_models(comfy_server: ComfyServer):
    """With guidance, by core's sampler and by ours over both experts, streamed and with LoRAs."""
    prompt, names = text(), []
    known = comfy_server.object_info("WanContextWindowsManual")["WanContextWindowsManual"]
    windows = {**widgets(known), **WINDOWS}
    prompts = {"first": ("first", 0), "second": ("second", 0), "weights": json.dumps(WEIGHTS)}
    for who in ("ours", "stock"):
        prompt |= pair(who)
        high, low = (f"{who}_high", 0), (f"{who}_low", 0)
        prompt[f"{who}_formula"] = node("WanDuetTestTimedFormula", model=high, **prompts)
        for name, source in (("timed", "timed"), ("single", "single"), ("plain", "first")):
            prompt |= ksampler(high, f"{who}_{name}", steps=1, cfg=2.0, **of(source))
        prompt |= ksampler((f"{who}_formula", 0), f"{who}_mean", steps=1, cfg=2.0, **of("first"))
        links = {"model_high": high, "model_low": low, "latent_image": ("latent", 0)}
        prompt |= moe_sampler(f"{who}_both", **links, **of("timed"), cfg_high=3.0, steps=2)
        prompt[f"{who}_nag_model"] = node(
            "WanDuetNAG",
            model_high=high,
            negative=("second", 0),
            nag_tau=2.5,
            nag_scale=5.0,
            nag_alpha=0.5,
        )
        prompt |= ksampler((f"{who}_nag_model", 0), f"{who}_nag", steps=1, **of("timed"))
        prompt[f"{who}_windows"] = node("WanContextWindowsManual", **{**windows, "model": high})
        prompt |= ksampler((f"{who}_windows", 0), f"{who}_long", steps=1, **of("timed"))
        names += [f"{who}_{n}" for n in ("timed", "single", "plain", "mean", "both", "nag", "long")]
    saved = run_to_tensors(comfy_server, prompt, {name: (name, 0) for name in names})
    for who in ("ours", "stock"):
        assert relative(saved[f"{who}_timed"], saved[f"{who}_mean"]) <= ROUNDING
        assert torch.equal(saved[f"{who}_single"], saved[f"{who}_plain"])
        assert difference(saved[f"{who}_timed"], saved[f"{who}_plain"]) > EFFECT
        assert difference(saved[f"{who}_timed"], saved[f"{who}_long"]) > EFFECT
    errors = {name: relative(saved[f"ours_{name}"], saved[f"stock_{name}"]) for name in COMPARED}
    assert {name: error for name, error in errors.items() if error > ROUNDING} == {}


def test_prompts_without_frames_and_broken_ranges(comfy_server: ComfyServer):
    prompt = {**text(), **model(T2V_HIGH, "ours"), **stock_model(T2V_HIGH, "stock")}
    for who in ("ours", "stock"):
        prompt |= ksampler((who, 0), f"{who}_out", steps=1, **of("unused"))
        prompt |= save(f"unused_{who}", latent=(f"{who}_out", 0))
    result = comfy_server.run(prompt)
    assert result.status == "success", result.error
    for who in ("ours", "stock"):
        (said,) = (t for t in result.texts(f"{who}_out") if "has no frame" in t)
        assert "Prompt 3 of the schedule" in said

    prompt |= schedule("unused", f"8-2: {FIRST}")
    result = comfy_server.run(prompt)
    assert "Got '8-2:'" in (result.error or {})["exception_message"]
