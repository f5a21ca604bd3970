"""Patches of other nodes give on our MODEL what they give on core's: docs/compatibility.md."""

import json
from pathlib import Path

import pytest

from .graphs import (
    VAE_22,
    Prompt,
    image_to_video,
    memory,
    model,
    moe_sampler,
    node,
    random_text,
    save,
    vae,
)
from .server import ComfyServer
from .stock import (
    LORA,
    ROUNDING,
    T2V_HIGH,
    T2V_LOW,
    TI2V,
    difference,
    empty_latent,
    ksampler,
    loaders,
    relative,
    run_to_tensors,
)

pytestmark = pytest.mark.comfy

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
NEWER = (
    "patch_self_attention",
    "patch_cross_attention",
    "patch_block",
    "embed_time_after_block",
    "override_in_state",
)
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
    errors = {k: relative(saved[f"ours_{k}"], saved[f"stock_{k}"]) for k in ("", *kinds)}
    assert {k: error for k, error in errors.items() if error > ROUNDING} == {}
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


def test_frames_with_timesteps_of_their_own(comfy_server: ComfyServer):
    """The 5B's first frame has timestep 0."""
    kinds = {kind: kind for kind in ("enhance_motion", "replace_inputs", "wrap_blocks")}
    size = {"width": 64, "height": 64, "length": 9}
    start = node("WanDuetTestImage", seed=1, width=64, height=64, count=1, channels=3)
    prompt = {**vae(VAE_22), "start": start}
    text = {"positive": ("positive", 0), "negative": ("negative", 0)}
    prompt |= image_to_video(**text, start_image=("start", 0), **size)
    for who, nodes in loaders(TI2V).items():
        prompt |= nodes
        for kind in ("", *kinds):
            name = f"{who}_{kind}"
            prompt |= patched(who, f"{name}_patched", kind)
            sampled = {"latent_image": ("size", 2), "steps": 2}
            prompt |= ksampler((f"{name}_patched", 0), name, **sampled)
    check(comfy_server, prompt, kinds)


def test_in_16_bit(comfy_server: ComfyServer):
    """Patches meet tensors of one dtype; the result is that of fp32 but for the rounding."""
    kinds = ("override_attention", "guide_text", "enhance_motion", "patch_self_attention")
    prompt = {**empty_latent(**SIZES), **model(T2V_HIGH, "fp32")}
    prompt |= model(T2V_HIGH, "bf16", precision="bf16")
    for precision in ("fp32", "bf16"):
        for kind in kinds:
            name = f"{precision}_{kind}"
            prompt |= patched(precision, f"{name}_patched", kind)
            prompt |= ksampler((f"{name}_patched", 0), name, steps=2)
    names = [f"{precision}_{kind}" for precision in ("fp32", "bf16") for kind in kinds]
    saved = run_to_tensors(comfy_server, prompt, {name: (name, 0) for name in names})
    for kind in kinds:
        exact = saved[f"fp32_{kind}"]
        assert (saved[f"bf16_{kind}"] - exact).norm() < 0.02 * exact.norm(), kind


@pytest.mark.parametrize(
    ("kind", "count"), [("override_attention", 2), ("halve_last_block", 0), ("wrap_blocks", 2)]
)
def test_what_patched_blocks_go_without_is_said_once(
    comfy_server: ComfyServer, kind: str, count: int
):
    prompt = {**random_text(), **empty_latent(**SIZES), **model(T2V_HIGH)}
    options = {"name": "patched_sparse", "label": "", "broken": False}
    prompt["sparse"] = node("WanDuetTestSparseAttention", model=("model", 0), **options)
    prompt |= patched("sparse", "patched", kind)
    prompt |= ksampler(("patched", 0), "sampler", steps=2, cfg=3.0)
    result = comfy_server.run(prompt | save("patched", latent=("sampler", 0)))
    assert result.status == "success", result.error
    said = [text for text in result.texts("sampler") if "Other nodes patch" in text]
    assert len(said) == bool(count)
    assert all(f"patch {count} of 2 blocks" in text and "sparse attention" in text for text in said)


def test_patches_know_where_they_are(comfy_server: ComfyServer):
    prompt = {**random_text(), **empty_latent(**SIZES), **model(T2V_HIGH)}
    prompt["read"] = node("WanDuetTestReadOptions", model=("model", 0), name="read_options")
    prompt |= ksampler(("read", 0), "sampler", steps=1)
    result = comfy_server.run(prompt | save("read", latent=("sampler", 0)))
    assert result.status == "success", result.error
    lines = [json.loads(line) for line in (comfy_server.output / "read_options.jsonl").open()]
    shared = {"total_blocks": 2, "block_type": "double", "grid_sizes": [3, 2, 3]}
    assert lines == [{"block_index": i, **shared} for i in range(2)]
