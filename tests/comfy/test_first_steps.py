"""First steps with a model of their own: three phases of one run, not three samplers."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ..toy.make_checkpoints import DIM, State, fill, make_lora, save
from .graphs import T2V, Prompt, experts, memory, model, moe_sampler, node, random_text, stock_model
from .server import ComfyServer, on_gpu
from .stock import (
    LORA,
    ROUNDING,
    T2V_HIGH,
    T2V_LOW,
    difference,
    empty_latent,
    ksampler_advanced,
    relative,
    run_to_tensors,
    shifted,
)

pytestmark = pytest.mark.comfy

DISTILLED = "toy_lightx2v_4steps.safetensors"
FP8 = ("toy_t2v_high_noise_scaled_fp8.safetensors", "toy_t2v_low_noise.safetensors")
SHIFT = 8.0
TEXT = {"positive": ("positive", 0), "negative": ("negative", 0)}
FIRST = {"start_steps": 2, "cfg_start": 3.0, "cfg_high": 1.5, "cfg_low": 1.0, "sampler": "euler"}
"""Of 8 steps at shift 8: 2 first steps, 3 of high noise, 3 of low noise."""
LINKS = {**TEXT, "latent_image": ("latent", 0), "steps": 8, "shift": SHIFT, "cfg_high": 1.5}


@pytest.fixture(scope="module", autouse=True)
def distilled(comfy_server: ComfyServer) -> None:
    """A LoRA whose name says that it is for four steps."""
    folder = comfy_server.base / "models" / "loras"
    shutil.copy2(folder / LORA, folder / DISTILLED)


def lora(source: tuple[str, int], name: str = DISTILLED, strength: float = 1.0) -> dict[str, Any]:
    return node("LoraLoaderModelOnly", model=source, lora_name=name, strength_model=strength)


def chained(who: str, prompt: Prompt) -> str:
    """Adds three of core's samplers on models that are called "who_start" and so on."""
    latent, noise = ("latent", 0), "enable"
    phases = (("start", 0, 2, 3.0), ("high", 2, 5, 1.5), ("low", 5, 10000, 1.0))
    for phase, first, end, cfg in phases:
        prompt |= shifted((f"{who}_{phase}", 0), f"{who}_{phase}_8", SHIFT)
        options: dict[str, Any] = {"start_at_step": first, "end_at_step": end, "cfg": cfg}
        options |= {"add_noise": noise, "latent_image": latent}
        options["return_with_leftover_noise"] = "disable" if phase == "low" else "enable"
        source = (f"{who}_{phase}_8", 0)
        prompt |= ksampler_advanced(source, f"{who}_in_{phase}", steps=8, **options)
        latent, noise = (f"{who}_in_{phase}", 0), "disable"
    return latent[0]


def test_three_phases_equal_three_chained_samplers(comfy_server: ComfyServer):
    """Ours and core's MODELs, the sampler and the guider."""
    prompt: Prompt = {**empty_latent(), "pick": node("KSamplerSelect", sampler_name="euler")}
    prompt |= {"noise": node("RandomNoise", noise_seed=7)}
    levels = {"steps": 8, "shift": SHIFT, "scheduler": "wan", "boundary": 0.0, "denoise": 1.0}
    prompt["sigmas"] = node("WanDuetSigmas", **levels, sampler="euler")
    names = []
    for who, load in (("ours", model), ("stock", stock_model)):
        prompt |= load(T2V_HIGH, f"{who}_start") | load(T2V_LOW, f"{who}_low")
        prompt[f"{who}_high"] = lora((f"{who}_start", 0))
        pair = {f"model_{name}": (f"{who}_{name}", 0) for name in ("high", "low", "start")}
        prompt |= moe_sampler(f"{who}_run", **{**LINKS, **pair, **FIRST})
        guided = {name: FIRST[name] for name in FIRST if name != "sampler"}
        options = {**pair, **TEXT, **guided, "boundary": 0.0, "shift": SHIFT}
        prompt[f"{who}_guider"] = node("WanDuetMoEGuider", **options)
        custom = {"noise": ("noise", 0), "guider": (f"{who}_guider", 0), "sampler": ("pick", 0)}
        custom |= {"sigmas": ("sigmas", 0), "latent_image": ("latent", 0)}
        prompt[f"{who}_custom"] = node("SamplerCustomAdvanced", **custom)
        names += [f"{who}_run", f"{who}_custom", chained(who, prompt)]
    without: dict[str, Any] = {"model_high": ("ours_high", 0), "model_low": ("ours_low", 0)}
    prompt |= moe_sampler("without", **{**LINKS, **without, "sampler": "euler"})
    links = {name: (name, 0) for name in (*names, "without")}
    saved = run_to_tensors(comfy_server, prompt, links)

    apart = {name: relative(saved[names[0]], saved[name]) for name in names}
    # Newer cores add LoRAs in 16 bit on a GPU, we in fp32.
    assert max(apart.values()) <= (4e-4 if on_gpu() else ROUNDING), apart
    assert difference(saved[names[0]], saved["without"]) > 0.01


@pytest.mark.parametrize(("files", "engine"), [(T2V, False), (FP8, False), (FP8, True)])
def test_its_lora_is_taken_off_without_a_model_for_the_first_steps(
    comfy_server: ComfyServer, files: tuple[str, str], engine: bool
):
    """LoRAs of our node and of core's, beside another one of ours that stays."""
    prompt: Prompt = {**random_text(64, 8), **empty_latent(), **experts(files)}
    if engine:
        prompt |= memory(blocks_to_swap=1)
        prompt["experts"]["inputs"]["memory"] = ["memory", 0]
    both = {"model_high": ("experts", 0), "model_low": ("experts", 1)}
    style: dict[str, Any] = {
        "lora_high": LORA,
        "lora_low": "none",
        "strength_high": -0.5,
        "strength_low": 1.0,
        "on": True,
    }
    prompt["style"] = node("WanDuetLoraPair", **both, **style)
    paired: dict[str, Any] = {
        "model_high": ("style", 0),
        "model_low": ("style", 1),
        "lora_high": DISTILLED,
    }
    paired |= {"lora_low": "auto", "strength_high": 1.0, "strength_low": 1.0, "on": True}
    prompt["pair"] = node("WanDuetLoraPair", **paired)
    prompt["core"] = lora(("style", 0))
    for who, low in (("pair", ("pair", 1)), ("core", ("style", 1))):
        options = {**LINKS, **FIRST, "model_high": (who, 0), "model_low": low, "steps": 4}
        prompt |= moe_sampler(f"{who}_alone", **options)
        prompt |= moe_sampler(f"{who}_given", **{**options, "model_start": ("style", 0)})
    names = [f"{who}_{how}" for who in ("pair", "core") for how in ("alone", "given")]
    saved = run_to_tensors(comfy_server, prompt, {name: (name, 0) for name in names})

    for who in ("pair", "core"):
        assert relative(saved[f"{who}_alone"], saved[f"{who}_given"]) <= ROUNDING, who


def test_what_is_said_while_and_after_it_runs(comfy_server: ComfyServer):
    prompt: Prompt = {**random_text(64, 8), **empty_latent(), **experts()}
    both: dict[str, Any] = {"model_high": ("lora", 0), "model_low": ("lora_low", 0)}
    prompt |= {"lora": lora(("experts", 0)), "lora_low": lora(("experts", 1))}
    opened = {"steps": 0, "cfg_high": 0.0, "cfg_low": 0.0, "shift": 0.0, "seed": 77}
    opened |= {"sampler": "auto", "scheduler": "auto"}
    options = {**LINKS, **opened, **both, "preset": "8 steps, three phases"}
    prompt |= moe_sampler(**options) | {"end": node("PreviewAny", source=("sampler", 0))}
    result = comfy_server.run(prompt)

    assert result.status == "success", result.error
    assert result.progress("sampler") == [(step, 8) for step in range(1, 9)]
    (plan,) = result.texts("sampler")
    assert "First 1 | High 3 | Low 4 (boundary 0.8)" in plan
    assert "8 steps, euler/wan, shift 3, cfg 3.5 | 1 | 1" in plan
    assert f"First steps: model_high without {DISTILLED}." in plan
    (record,) = comfy_server.history(result.prompt_id)["outputs"]["sampler"]["wanduet_report"]
    assert (record["preset"], record["start_steps"]) == ("8 steps, three phases", 1)
    lines = record["report"].splitlines()
    for name, steps in (("First steps: 1 step", 1), ("High-noise expert: 3", 3)):
        assert any(line.startswith(name) for line in lines), (name, steps)


@pytest.mark.parametrize("named", [True, False])
def test_its_lora_is_taken_off_beside_others_of_other_nodes(comfy_server: ComfyServer, named: bool):
    """Whether their nodes name their files or not: its own file tells its patches."""
    state = make_lora("seko")
    state["diffusion_model.blocks.1.ffn.0.lora_A.weight"][:2] = 0  # the rest tells, as everywhere
    state["diffusion_model.blocks.0.cross_attn.v.lora_A.weight"][:] = 0
    save(comfy_server.base / "models", "loras", "toy_seko_4steps", state)
    prompt: Prompt = {**random_text(64, 8), **empty_latent(), **experts()}
    unnamed = node("WanDuetTestUnnamedLora", model=("experts", 0))
    prompt |= {"style": lora(("experts", 0), LORA) if named else unnamed}
    prompt |= {"merged": lora(("style", 0), "toy_seko_4steps.safetensors")}
    links: dict[str, Any] = {"model_low": ("experts", 1), "model_high": ("merged", 0)}
    options = {**LINKS, **FIRST, **links}
    prompt |= moe_sampler("alone", **options)
    prompt |= moe_sampler("given", **{**options, "model_start": ("style", 0)})
    saved = run_to_tensors(comfy_server, prompt, {name: (name, 0) for name in ("alone", "given")})
    assert relative(saved["alone"], saved["given"]) <= ROUNDING


def loha(target: str) -> State:
    """A LoRA of a kind whose patches are not told by their file."""
    sides = {"a": (DIM, 2), "b": (2, DIM)}
    names = [(f"hada_w{number}_{side}", side) for number in (1, 2) for side in sides]
    name = f"diffusion_model.blocks.0.{target}"
    return fill({f"{name}.{part}": sides[side] for part, side in names}, "loha", torch.float16)


@pytest.mark.parametrize("case", ["one more for few steps", "not all of its patches known"])
def test_a_start_that_cannot_be_had_is_refused(comfy_server: ComfyServer, case: str):
    """Beside a LoRA whose node does not name its file: for few steps itself, or any."""
    prompt: Prompt = {**random_text(64, 8), **empty_latent(), **experts()}
    lightning = case == "one more for few steps"
    prompt["more"] = node("WanDuetTestUnnamedLora", model=("experts", 0), lightning=lightning)
    name = DISTILLED
    if not lightning:
        name = "toy_lightx2v_mixed_4steps.safetensors"
        state = make_lora("mixed") | loha("self_attn.k")
        save(comfy_server.base / "models", "loras", Path(name).stem, state)
    prompt["merged"] = lora(("more", 0), name)
    options = {**LINKS, **FIRST, "model_low": ("experts", 1), "model_high": ("merged", 0)}
    prompt |= moe_sampler(**options) | {"end": node("PreviewAny", source=("sampler", 0))}
    result = comfy_server.run(prompt)

    assert result.status == "error"
    assert "cannot be told from what else is merged" in str(result.error)
