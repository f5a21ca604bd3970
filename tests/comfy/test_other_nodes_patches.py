"""Patches of other nodes give on our MODEL what they give on core's: docs/compatibility.md."""

from pathlib import Path

import pytest

from .graphs import Prompt, memory, moe_sampler, node
from .server import ComfyServer
from .stock import (
    LORA,
    T2V_HIGH,
    T2V_LOW,
    difference,
    empty_latent,
    ksampler,
    loaders,
    run_to_tensors,
)

pytestmark = pytest.mark.comfy

ATOL = 1e-4
"""Of latents in fp32."""
EFFECT = 1e-3
"""What each patch changes at least, so that agreement says something."""

KINDS = {
    "override_attention": "override_attention",
    "guide_text": "guide_text",
    "relay_prompt": "relay_prompt",
    "enhance_motion": "enhance_motion",
    "patch_self_attention": "scale_before_output",
    "scale_before_output": "scale_before_output",
    "patch_cross_attention": "shift_cross_attention",
    "patch_block": "halve_last_block",
    "halve_last_block": "halve_last_block",
    "replace_inputs": "replace_inputs",
    "wrap_blocks": "wrap_blocks",
    "feed_in_parts": "feed_in_parts",
    "stretch_positions": "stretch_positions",
    "slow_frequency": "slow_frequency",
}
"""Kind of patch on our MODEL, and on core's: its equal where core 0.3 has no such hook."""
NEWER = ("patch_self_attention", "patch_cross_attention", "patch_block", "embed_time_after_block")
"""Kinds for hooks that newer cores have."""
SIZES = {"width": 48, "height": 32, "length": 9}


def patched(source: str, node_id: str, kind: str) -> Prompt:
    return {node_id: node("WanDuetTestPatch", model=(source, 0), kind=kind)}


def streamed(file: str, who: str) -> Prompt:
    """One of `loaders`; ours with the weights of one of two blocks streamed, and a LoRA."""
    nodes = {f"{who}_file": loaders(file)[who.split("_")[0]][who.split("_")[0]]}
    if who.startswith("ours"):
        nodes |= memory(blocks_to_swap=1)
        nodes[f"{who}_file"]["inputs"]["memory"] = ["memory", 0]
    lora = {"lora_name": LORA, "strength_model": 1.0}
    return nodes | {who: node("LoraLoaderModelOnly", model=(f"{who}_file", 0), **lora)}


def check(server: ComfyServer, prompt: Prompt, kinds: dict[str, str]) -> None:
    """Compares latents ours_KIND and stock_KIND of a prompt; they differ from those of ""."""
    names = [f"{who}_{kind}" for kind in ("", *kinds) for who in ("ours", "stock")]
    saved = run_to_tensors(server, prompt, {name: (name, 0) for name in names})
    errors = {k: difference(saved[f"ours_{k}"], saved[f"stock_{k}"]) for k in ("", *kinds)}
    assert {k: error for k, error in errors.items() if error > ATOL} == {}
    effects = {k: difference(saved[f"ours_{k}"], saved["ours_"]) for k in kinds}
    assert {k: effect for k, effect in effects.items() if effect < EFFECT} == {}


def one_model(kinds: dict[str, str]) -> Prompt:
    prompt = empty_latent(**SIZES)
    for who, nodes in loaders(T2V_HIGH).items():
        prompt |= nodes
        for kind, stand_in in {"": "", **kinds}.items():
            name = f"{who}_{kind}"
            prompt |= patched(who, f"{name}_patched", stand_in if who == "stock" else kind)
            prompt |= ksampler((f"{name}_patched", 0), name, steps=2, cfg=3.0)
    return prompt


def test_one_model_in_cores_sampler(comfy_server: ComfyServer):
    check(comfy_server, one_model(KINDS), KINDS)


def test_hooks_of_newer_cores(comfy_server: ComfyServer, comfyui: Path):
    source = (comfyui / "comfy" / "ldm" / "wan" / "model.py").read_text()
    if "attn1_patch" not in source:
        pytest.skip("This ComfyUI's own Wan model has no such patches.")
    kinds = {kind: kind for kind in NEWER}
    check(comfy_server, one_model(kinds), kinds)


@pytest.mark.parametrize("experts", [("high", "low"), ("low",)])
def test_streamed_experts_with_loras_in_our_sampler(
    comfy_server: ComfyServer, experts: tuple[str, ...]
):
    kinds = KINDS if len(experts) == 2 else {k: KINDS[k] for k in ("guide_text", "patch_block")}
    prompt = empty_latent(**SIZES)
    for who in ("ours", "stock"):
        for expert, file in (("high", T2V_HIGH), ("low", T2V_LOW)):
            prompt |= streamed(file, f"{who}_{expert}")
        for kind, stand_in in {"": "", **kinds}.items():
            name, patch = f"{who}_{kind}", stand_in if who == "stock" else kind
            for expert in ("high", "low"):
                used = patch if expert in experts else ""
                prompt |= patched(f"{who}_{expert}", f"{name}_{expert}", used)
            links = {f"model_{e}": (f"{name}_{e}", 0) for e in ("high", "low")}
            text = {"positive": ("positive", 0), "negative": ("negative", 0)}
            options = {"steps": 2, "boundary": 0.875, "cfg_low": 2.0, "shift": 5.0}
            prompt |= moe_sampler(name, **links, **text, latent_image=("latent", 0), **options)
    check(comfy_server, prompt, kinds)
