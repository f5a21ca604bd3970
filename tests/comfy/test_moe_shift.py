"""Everything inside a run follows the shift of the run: ranges, keyframes, samplers of core."""

from typing import Any

import pytest

from .graphs import Prompt, model, moe_sampler, node, random_text, save, stock_model
from .server import ComfyServer, on_gpu
from .stock import (
    LORA,
    ROUNDING,
    T2V_HIGH,
    empty_latent,
    ksampler,
    relative,
    run_to_tensors,
    shifted,
)

pytestmark = pytest.mark.comfy

SHIFT, STEPS = 3.0, 10
BOUND = 1e-4 if on_gpu() else ROUNDING
TEXT = {"positive": ("positive", 0), "negative": ("negative", 0)}
MODELS = {**model(T2V_HIGH, "ours"), **stock_model(T2V_HIGH, "stock")}
SAMPLERS = ("sa_solver", "dpmpp_sde", "er_sde")


def one_model(node_id: str, source: str, **options: Any) -> Prompt:
    """Our sampler on one MODEL, with core's schedule."""
    settings = {"steps": STEPS, "shift": SHIFT, "scheduler": "simple", "cfg_high": 2.0, **TEXT}
    links = {"model_high": (source, 0), "model_low": None, "latent_image": ("latent", 0)}
    return moe_sampler(node_id, **{**settings, **links, **options})


def ranges() -> Prompt:
    """A prompt that changes after 40 % of the run: ("both", 0)."""
    prompt: Prompt = {"other": node("WanDuetTestConditioning", seed=5, tokens=512, text_dim=4096)}
    parts = {"early": ("positive", 0.0, 0.4), "late": ("other", 0.4, 1.0)}
    for name, (source, start, end) in parts.items():
        part = {"conditioning": (source, 0), "start": start, "end": end}
        prompt[name] = node("ConditioningSetTimestepRange", **part)
    sides = {"conditioning_1": ("early", 0), "conditioning_2": ("late", 0)}
    return {**prompt, "both": node("ConditioningCombine", **sides)}


def keyframes() -> Prompt:
    """A LoRA that is off until half of the run: ("hooked", 0)."""
    lora = {"lora_name": LORA, "strength_model": 1.0, "strength_clip": 0.0}
    key = {"strength_mult": 0.0, "start_percent": 0.0}
    later = {"strength_mult": 1.0, "start_percent": 0.5, "prev_hook_kf": ("off", 0)}
    return {
        "lora": node("CreateHookLora", **lora),
        "off": node("CreateHookKeyframe", **key),
        "on": node("CreateHookKeyframe", **later),
        "timed": node("SetHookKeyframes", hooks=("lora", 0), hook_kf=("on", 0)),
        "hooked": node(
            "ConditioningSetProperties",
            cond_NEW=("positive", 0),
            strength=1.0,
            set_cond_area="default",
            hooks=("timed", 0),
        ),
    }


def compare(server: ComfyServer, prompt: Prompt, cases: dict[str, dict[str, Any]]) -> None:
    """Runs our sampler and core's, at one shift, on our MODEL and on core's."""
    prompt = {**MODELS, **empty_latent(), **prompt}
    pairs = []
    for source in ("ours", "stock"):
        prompt |= shifted((source, 0), f"{source}_shifted", SHIFT)
        for name, options in cases.items():
            mine, core = f"{name}_{source}_mine", f"{name}_{source}_core"
            prompt |= one_model(mine, source, **options)
            options = {k: v for k, v in options.items() if k != "sampler"}
            how = {"sampler_name": cases[name].get("sampler", "euler"), "steps": STEPS, "cfg": 2.0}
            prompt |= ksampler((f"{source}_shifted", 0), core, **how, **options)
            pairs.append((mine, core))
    names = [name for pair in pairs for name in pair]
    saved = run_to_tensors(server, prompt, {name: (name, 0) for name in names})

    for mine, core in pairs:
        assert relative(saved[mine], saved[core]) <= BOUND, mine


def test_ranges_of_conditionings(comfy_server: ComfyServer):
    compare(comfy_server, ranges(), {"ranges": {"positive": ("both", 0)}})


def test_keyframes_of_hooks(comfy_server: ComfyServer):
    compare(comfy_server, keyframes(), {"keyframes": {"positive": ("hooked", 0)}})


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_that_ask_the_model(comfy_server: ComfyServer, sampler: str):
    compare(comfy_server, {}, {sampler: {"sampler": sampler}})


def test_both_experts(comfy_server: ComfyServer):
    """Two equal experts give what one gives, which knows the shift."""
    prompt = {**MODELS, **empty_latent(), **ranges()}
    options = {"positive": ("both", 0), "sampler": "dpmpp_2m_sde"}
    prompt |= one_model("one", "ours", **options)
    pair = {"model_low": ("stock", 0), "boundary": 0.8, "cfg_low": 2.0}
    prompt |= one_model("two", "ours", **options, **pair)
    saved = run_to_tensors(comfy_server, prompt, {name: (name, 0) for name in ("one", "two")})

    assert relative(saved["one"], saved["two"]) <= BOUND


def test_guider(comfy_server: ComfyServer):
    prompt = {**MODELS, **empty_latent(), **ranges()}
    prompt |= one_model("node", "ours", positive=("both", 0), sampler="sa_solver")
    sides = {"positive": ("both", 0), "negative": ("negative", 0)}
    cfg = {"cfg_high": 2.0, "cfg_low": 0.0, "boundary": 0.0, "shift": SHIFT}
    prompt["guider"] = node("WanDuetMoEGuider", model_high=("ours", 0), **cfg, **sides)
    schedule = {"steps": STEPS, "shift": SHIFT, "scheduler": "simple", "boundary": 0.0}
    prompt["sigmas"] = node("WanDuetSigmas", denoise=1.0, **schedule)
    prompt["select"] = node("WanDuetSamplerSelect", sampler="sa_solver")
    prompt["noise"] = node("RandomNoise", noise_seed=7)
    prompt["custom"] = node(
        "SamplerCustomAdvanced",
        noise=("noise", 0),
        guider=("guider", 0),
        sampler=("select", 0),
        sigmas=("sigmas", 0),
        latent_image=("latent", 0),
    )
    saved = run_to_tensors(comfy_server, prompt, {"node": ("node", 0), "custom": ("custom", 0)})

    assert relative(saved["node"], saved["custom"]) <= ROUNDING


def test_a_shift_in_front_is_taken_over_or_named(comfy_server: ComfyServer):
    prompt = {**random_text(), **MODELS, **empty_latent(), **ranges()}
    prompt |= shifted(("ours", 0), "front", SHIFT)
    prompt |= shifted(("ours", 0), "front_5", 5.0)
    prompt["flux"] = node(
        "ModelSamplingFlux", model=("ours", 0), max_shift=1.0, base_shift=0.5, width=64, height=48
    )
    two = {"model_low": ("front_5", 0), "cfg_low": 2.0}
    cases: dict[str, dict[str, Any]] = {
        "plain": {"source": "ours"},
        "auto": {"source": "front", "shift": 0.0},
        "same": {"source": "front"},
        "four": {"source": "front", "shift": 4.0},
        "different": {"source": "front", "shift": 0.0, **two},
        "foreign": {"source": "flux"},
    }
    for name, options in cases.items():
        prompt |= one_model(name, positive=("both", 0), **options)
        prompt |= save(name, latent=(name, 0))
    schedule = {"steps": STEPS, "scheduler": "simple", "boundary": 0.0, "denoise": 1.0}
    prompt["sigmas"] = node("WanDuetSigmas", model=("front", 0), shift=0.0, **schedule)
    prompt |= save("sigmas", sigmas=("sigmas", 0))
    result = comfy_server.run(prompt)
    assert result.status == "success", result.error
    said = {name: "\n".join(result.texts(name)) for name in [*cases, "sigmas"]}

    for name in ("auto", "sigmas"):
        assert "shift 3 from the MODEL" in said[name]
    assert "shift 3 from the MODEL, of 3 and 5: a run has one" in said["different"]
    assert "The model's shift 3 is ignored: this node says 4" in said["four"]
    assert "ModelSamplingFlux has no effect here" in said["foreign"]
    for name in ("plain", "same"):
        assert "from the MODEL" not in said[name]
        assert "not used" not in said[name]
    links = {f"again_{name}": (name, 0) for name in ("plain", "auto", "same")}
    saved = run_to_tensors(comfy_server, prompt, links)
    assert relative(saved["again_plain"], saved["again_auto"]) <= ROUNDING
    assert relative(saved["again_plain"], saved["again_same"]) <= ROUNDING
