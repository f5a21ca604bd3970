"""Video to video, inpainting, regions, and LoRAs by hooks: our sampler and MODELs as core's."""

import pytest
import torch

from .graphs import Prompt, model, moe_sampler, node, stock_model
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

pytestmark = pytest.mark.comfy

EFFECT = 1e-3
SHIFT, STEPS = 5.0, 4
BOUNDARY_PERCENT = 0.417
"""Part of the run at which sigma is T2V's boundary, 0.875, by this shift: docs/core-nodes.md."""
TEXT = {"positive": ("positive", 0), "negative": ("negative", 0)}


def pairs() -> Prompt:
    """Both experts of our loader and of core's; with a LoRA on the high-noise one."""
    prompt: Prompt = empty_latent(48, 32, 5)
    for expert, file in (("high", T2V_HIGH), ("low", T2V_LOW)):
        prompt |= model(file, f"ours_{expert}") | stock_model(file, f"stock_{expert}")
    lora = {"lora_name": LORA, "strength_model": 0.8}
    prompt["ours_lora"] = node("LoraLoaderModelOnly", model=("ours_high", 0), **lora)
    return prompt


def sampled(name: str, who: str, high: str = "high", **options: object) -> Prompt:
    links = {"model_high": (f"{who}_{high}", 0), "model_low": (f"{who}_low", 0), **TEXT}
    settings = {"latent_image": ("latent", 0), "steps": STEPS, "shift": SHIFT}
    return moe_sampler(name, **{**links, **settings, **options})


def regions() -> Prompt:
    """Another prompt on the left half of a video: ("both", 0). A mask of it: ("left", 0)."""
    left = {"destination": ("whole", 0), "source": ("half", 0), "x": 0, "y": 0}
    return {
        "other": node("WanDuetTestConditioning", seed=5, tokens=512, text_dim=4096),
        "whole": node("SolidMask", value=0.0, width=48, height=32),
        "half": node("SolidMask", value=1.0, width=24, height=32),
        "left": node("MaskComposite", operation="add", **left),
        "right": node("InvertMask", mask=("left", 0)),
        **{
            f"{side}_text": node(
                "ConditioningSetMask",
                conditioning=(source, 0),
                mask=(side, 0),
                strength=1.0,
                set_cond_area="default",
            )
            for side, source in (("left", "other"), ("right", "positive"))
        },
        "both": node(
            "ConditioningCombine",
            conditioning_1=("left_text", 0),
            conditioning_2=("right_text", 0),
        ),
        "masked": node("SetLatentNoiseMask", samples=("content", 0), mask=("left", 0)),
    }


def hooks() -> Prompt:
    """A LoRA at 0.8 as long as the high-noise expert runs, then at 0: ("hooked", 0), 1."""
    on = {"strength_mult": 1.0, "start_percent": 0.0}
    off = {"strength_mult": 0.0, "start_percent": BOUNDARY_PERCENT, "prev_hook_kf": ("on", 0)}
    lora = {"lora_name": LORA, "strength_model": 0.8, "strength_clip": 0.0}
    sides = {"positive_NEW": ("positive", 0), "negative_NEW": ("negative", 0)}
    properties = {"strength": 1.0, "set_cond_area": "default", "hooks": ("timed", 0)}
    return {
        "hook": node("CreateHookLora", **lora),
        "on": node("CreateHookKeyframe", **on),
        "off": node("CreateHookKeyframe", **off),
        "timed": node("SetHookKeyframes", hooks=("hook", 0), hook_kf=("off", 0)),
        "hooked": node("PairConditioningSetProperties", **sides, **properties),
    }


def test_both_experts_of_ours_and_core_s(comfy_server: ComfyServer):
    prompt = {**pairs(), **regions(), **hooks()}
    prompt |= ksampler(("stock_high", 0), "content", steps=1, seed=1)
    cases = {
        "plain": {},
        "video": {"latent_image": ("content", 0), "denoise": 0.5},
        "inpaint": {"latent_image": ("masked", 0), "denoise": 0.8},
        "regions": {"positive": ("both", 0), "cfg_high": 2.0},
        "hooks": {"positive": ("hooked", 0), "negative": ("hooked", 1), "cfg_high": 2.0},
    }
    for name, options in cases.items():
        for who in ("ours", "stock"):
            prompt |= sampled(f"{who}_{name}", who, **options)
    prompt |= sampled("ours_loaded", "ours", "lora", cfg_high=2.0)
    names = ["content", "ours_loaded", *(f"{w}_{n}" for n in cases for w in ("ours", "stock"))]
    saved = run_to_tensors(comfy_server, prompt, {name: (name, 0) for name in names})

    errors = {name: relative(saved[f"ours_{name}"], saved[f"stock_{name}"]) for name in cases}
    assert {name: error for name, error in errors.items() if error > ROUNDING} == {}
    plain, inpainted = saved["ours_plain"], saved["ours_inpaint"]
    for name in set(cases) - {"plain"}:
        assert difference(saved[f"ours_{name}"], plain) > EFFECT
    # A hook per expert is that expert's LoRA, and outside of a mask nothing changes.
    assert relative(saved["ours_hooks"], saved["ours_loaded"]) <= ROUNDING
    half = inpainted.shape[-1] // 2
    torch.testing.assert_close(inpainted[..., half:], saved["content"][..., half:])
    assert difference(inpainted[..., :half], saved["content"][..., :half]) > EFFECT
