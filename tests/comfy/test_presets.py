"""What 0 and "auto" mean at our nodes, with distilled LoRAs of any loader, and with presets."""

import shutil
from typing import Any

import pytest
import torch

from wan_model.vae import wan21

from ..toy.make_checkpoints import make_dit, make_lora, save
from .graphs import (
    T2V,
    Prompt,
    experts,
    model,
    moe_sampler,
    node,
    random_text,
    stock_model,
)
from .server import ComfyServer, on_gpu
from .stock import LORA, ROUNDING, empty_latent, relative, run_to_tensors

pytestmark = pytest.mark.comfy

DISTILLED = "toy_lightx2v_4steps.safetensors"
EIGHT = "toy_lightx2v_8steps.safetensors"
FAST: dict[str, Any] = {
    "model": ("model", 0),
    "lora_name": "toy_fastwan.safetensors",
    "strength_model": 1.0,
}
"""A LoRA for three steps with noise levels of its own."""
OPEN: dict[str, Any] = {
    "positive": ("positive", 0),
    "negative": ("negative", 0),
    "latent_image": ("latent", 0),
    "steps": 0,
    "cfg_high": 0.0,
    "cfg_low": 0.0,
    "shift": 0.0,
    "sampler": "auto",
    "scheduler": "auto",
}
STOCK = "toy4096_t2v_high_noise.safetensors"
BASE: Prompt = {**random_text(64, 8), **empty_latent(), **experts()}


@pytest.fixture(scope="module", autouse=True)
def distilled(comfy_server: ComfyServer) -> None:
    """LoRAs whose names say that they are for few steps."""
    models = comfy_server.base / "models"
    for name in (DISTILLED, FAST["lora_name"]):
        shutil.copy2(models / "loras" / LORA, models / "loras" / name)
    save(models, "loras", EIGHT.removesuffix(".safetensors"), make_lora(EIGHT))


def with_loras(kind: str, high: str | None, low: str | None, strength: float = 1.0) -> Prompt:
    """The sampler on experts with LoRAs by core's node or ours."""
    links: dict[str, Any] = {"model_high": ("experts", 0), "model_low": ("experts", 1)}
    if kind == "ours":
        names = {"lora_high": high or "none", "lora_low": low or "none"}
        strengths = {"strength_high": strength, "strength_low": strength}
        pair = node("WanDuetLoraPair", **links, **names, **strengths, on=True)
        ours = {"model_high": ("pair", 0), "model_low": ("pair", 1)}
        return {"pair": pair, **moe_sampler(**OPEN, **ours)}
    nodes: Prompt = {}
    for socket, file in (("model_high", high), ("model_low", low)):
        if file:
            options = {"lora_name": file, "strength_model": strength}
            nodes[socket] = node("LoraLoaderModelOnly", model=links[socket], **options)
            links[socket] = (socket, 0)
    return {**nodes, **moe_sampler(**OPEN, **links)}


def planned(server: ComfyServer, prompt: Prompt) -> dict[str, Any]:
    return server.post("/wanduet/check", {"prompt": prompt})["automatic"]["sampler"]


OFFICIAL = {"preset": "official", "steps": 2}
CASES = [
    ("both", DISTILLED, DISTILLED, 1.0, {}, (4, 1.0, 1.0, 5.0, "euler")),
    ("typed", DISTILLED, DISTILLED, 1.0, {"steps": 3, "cfg_low": 2.0}, (3, 1.0, 2.0, 5.0, "euler")),
    ("off", DISTILLED, DISTILLED, 0.0, {"steps": 2}, (2, 4.0, 3.0, 12.0, "unipc")),
    ("low only", None, DISTILLED, 1.0, {"steps": 4}, (4, 4.0, 1.0, 5.0, "euler")),
    ("high only", DISTILLED, None, 1.0, {"steps": 4}, (4, 1.0, 3.0, 5.0, "euler")),
    ("most steps", DISTILLED, EIGHT, 1.0, {}, (8, 1.0, 1.0, 5.0, "euler")),
    ("official", DISTILLED, DISTILLED, 1.0, OFFICIAL, (2, 4.0, 3.0, 12.0, "unipc")),
    ("a style", LORA, LORA, 1.0, {"steps": 2}, (2, 4.0, 3.0, 12.0, "unipc")),
]

RUN = ("both", "off", "low only")


@pytest.mark.parametrize("kind", ["ours", "core"])
def test_settings_follow_loras(comfy_server: ComfyServer, kind: str):
    """The plan that the editor shows, and of some cases the run."""
    for number, (name, high, low, strength, changes, wanted) in enumerate(CASES):
        nodes = {**BASE, **with_loras(kind, high, low, strength)}
        nodes["sampler"]["inputs"] |= {**changes, "seed": 500 + number}
        plan = planned(comfy_server, nodes)
        keys = ("steps", "cfg_high", "cfg_low", "shift", "sampler")
        assert tuple({**plan, **changes}[key] for key in keys) == wanted, name
        assert bool(plan["why"]) == (name not in ("off", "a style"))
        if name not in RUN:
            continue
        nodes["end"] = node("PreviewAny", source=("sampler", 0))
        result = comfy_server.run(nodes)
        assert result.status == "success", result.error
        (record,) = comfy_server.history(result.prompt_id)["outputs"]["sampler"]["wanduet_report"]
        assert tuple(record[key] for key in keys) == wanted, name
        assert all(line in record["report"] for line in plan["why"])


def test_loras_of_stacks_and_behind_switches_are_found_on_the_model(comfy_server: ComfyServer):
    """Before a run only their names are known; there the MODEL tells which of them it has."""
    nodes: Prompt = {**BASE, "lora": node("LoraLoaderModelOnly", **{**FAST, "lora_name": EIGHT})}
    nodes["lora"]["inputs"]["model"] = ["experts", 0]
    for name, on in (("on", True), ("off", False)):
        nodes[f"row_{name}"] = node("WTestLoraRow", lora_1=DISTILLED, switch_1=on)
        rows: dict[str, Any] = {"way_1": ("experts", 0), "rows": (f"row_{name}", 0)}
        nodes[f"stack_{name}"] = node("WTestApplyLoraRows", **rows)
    both: dict[str, Any] = {"way_1": ("stack_on", 0), "way_2": ("lora", 0)}
    nodes["one_of_two"] = node("WTestApplyLoraRows", **both, rows=("row_off", 0))
    three_phases = {"preset": "8 steps, three phases", "end_at_step": 1}
    cases: dict[str, tuple[str, dict[str, Any], tuple[float, ...]]] = {
        "stack": ("stack_on", {"end_at_step": 1}, (10, 1.0, 5.0)),
        "off": ("stack_off", {"end_at_step": 1}, (40, 4.0, 12.0)),
        "switch": ("one_of_two", {"end_at_step": 1}, (10, 1.0, 5.0)),
        "first steps": ("stack_on", three_phases, (8, 1.0, 3.0)),
    }
    for name, (source, changes, _) in cases.items():
        nodes |= moe_sampler(name, **{**OPEN, "model_high": (source, 0), **changes})
        nodes[f"{name} end"] = node("PreviewAny", source=(name, 0))
    plans = comfy_server.post("/wanduet/check", {"prompt": nodes})["plans"]
    result = comfy_server.run(nodes)

    assert result.status == "success", result.error
    for name, (_, _, wanted) in cases.items():
        (record,) = comfy_server.history(result.prompt_id)["outputs"][name]["wanduet_report"]
        assert tuple(record[key] for key in ("steps", "cfg_high", "shift")) == wanted, name
    for name in ("stack", "off"):
        named = any(line.startswith(f"{DISTILLED} is named by a node") for line in plans[name])
        assert named == (name == "stack")
    said = comfy_server.history(result.prompt_id)["outputs"]["first steps"]["wanduet_report"]
    assert f"First steps: model_high without {DISTILLED}." in said[0]["report"]


@pytest.mark.parametrize(
    ("row", "is_on"),
    [
        ({"switch_1": "On", "switch_2": "Off", "model_weight_1": 1.0}, True),
        ({"switch_1": "Off", "model_weight_1": 1.0}, False),
        ({"use_1": True, "model_weight_1": 0.0, "clip_weight_1": 1.0}, False),
    ],
)
def test_rows_that_are_off_are_not_named(
    comfy_server: ComfyServer, row: dict[str, Any], is_on: bool
):
    nodes: Prompt = {**BASE, "rows": node("ForeignStack", lora_name_1=DISTILLED, **row)}
    nodes["stack"] = node("ForeignApply", model=("experts", 0), rows=("rows", 0))
    nodes |= moe_sampler("stacked", **{**OPEN, "model_high": ("stack", 0)})
    plan = comfy_server.post("/wanduet/check", {"prompt": nodes})["plans"]["stacked"]
    assert any(line.startswith(f"{DISTILLED} is named by a node") for line in plan) == is_on


def test_plans_know_other_loaders_files_and_shifts(comfy_server: ComfyServer):
    """A merge in ComfyUI's loader of checkpoints, one in a pack's, and ModelSamplingSD3."""
    models = comfy_server.base / "models"
    state = make_dit("t2v", "rapid")
    whole = {f"model.diffusion_model.{name}": tensor for name, tensor in state.items()}
    save(models, "checkpoints", "wan-rapid-aio", whole)
    save(models, "diffusion_models", "wan-rapid-base", state)
    shifted: dict[str, Any] = {"model": ("switch", 0), "shift": 7.0}
    nodes: Prompt = {
        **BASE,
        "merge": node("CheckpointLoaderSimple", ckpt_name="wan-rapid-aio.safetensors"),
        "other": node("UNETLoaderOfAPack", unet_name="wan-rapid-base.safetensors", device="cuda:0"),
        "switch": node("SwitchOfAPack", any_01=("other", 0)),
        "shifted": node("ModelSamplingSD3", **shifted),
    }
    for source, shift in (("merge", 8.0), ("switch", 8.0), ("shifted", 7.0)):
        alone = {"model_high": (source, 0), "model_low": None}
        plan = planned(comfy_server, {**nodes, **moe_sampler(**{**OPEN, **alone})})
        keys = ("steps", "cfg_high", "shift")
        assert tuple(plan[key] for key in keys) == (4, 1.0, shift), source
    assert plan["why"][-1] == "shift 7 from the MODEL"
    for on in (True, False):
        rows = {"model": ("other", 0), "lora_1": {"on": on, "lora": EIGHT, "strength": 1.0}}
        nodes["rows"] = node("RowsOfAPack", **rows)
        options = {**OPEN, "model_high": ("rows", 0), "model_low": None}
        plan = planned(comfy_server, {**nodes, **moe_sampler(**options)})
        assert any(EIGHT in line for line in plan["why"]) == on


def test_loras_for_few_steps_of_another_width_do_not_count(comfy_server: ComfyServer):
    """Neither in the plan nor in the run, whether a file is named or only numbers tell."""
    narrow = "narrow_lightx2v_4steps"
    save(comfy_server.base / "models", "loras", narrow, make_lora("narrow", dim=128, ffn_dim=256))
    file = {"lora_name": f"{narrow}.safetensors", "strength_model": 1.0}
    nodes: Prompt = {**random_text(64, 8), **experts(), **stock_model(STOCK, "stock")}
    style = {"lora_name": LORA, "strength_model": 1.0}
    nodes["style"] = node("LoraLoaderModelOnly", model=("experts", 0), **style)
    nodes["named"] = node("LoraLoaderModelOnly", model=("style", 0), **file)
    numbers: dict[str, Any] = {"model": ("style", 0), "narrow_lightning": True}
    nodes["numbers"] = node("WanDuetTestUnnamedLora", **numbers)
    stock: dict[str, Any] = {"model": ("stock", 0)}
    nodes["named_stock"] = node("LoraLoaderModelOnly", **stock, **file)
    nodes["numbers_stock"] = node("WanDuetTestUnnamedLora", **{**numbers, **stock})
    links: dict[str, Any] = {"model_high": ("named", 0), "model_low": ("experts", 1)}
    plan = planned(comfy_server, {**BASE, **nodes, **moe_sampler(**{**OPEN, **links})})
    guided: dict[str, Any] = {name: OPEN[name] for name in ("positive", "negative", "shift")}
    guided |= {"cfg_high": 0.0, "cfg_low": 0.0, "boundary": 0.0, "start_steps": 1}
    nodes["guider"] = node("WanDuetMoEGuider", **links, **guided)
    levels = {"steps": 0, "shift": 0.0, "boundary": 0.0, "denoise": 1.0, "scheduler": "wan"}
    ends = ("numbers", "named_stock", "numbers_stock")
    nodes |= {f"{name}_end": node("WanDuetSigmas", **levels, model=(name, 0)) for name in ends}
    shown = ("guider", *(f"{name}_end" for name in ends))
    nodes |= {f"{name}_shown": node("PreviewAny", source=(name, 0)) for name in shown}
    result = comfy_server.run(nodes)

    assert result.status == "success", result.error
    keys = ("steps", "cfg_high", "shift", "sampler")
    assert tuple(plan[key] for key in keys) == (40, 4.0, 12.0, "unipc")
    foreign = f"{narrow}.safetensors does not fit this model and is not counted."
    assert plan["why"] == [foreign]
    (said,) = result.texts("guider")
    assert "cfg 4 | 4 | 3, boundary 0.875, shift 12" in said
    assert said.splitlines()[-2:] == [foreign, "First steps: model_high."]
    for name in ends:
        (said,) = result.texts(f"{name}_end")
        assert "High 26 | Low 14 (shift 12" in said, name
        assert (foreign in said) == (name == "named_stock")


def test_scheduler_wan_of_the_sigmas_leaves_levels_to_the_model(comfy_server: ComfyServer):
    """There is no "auto" in its list, which is older; it says so. Any other one decides."""
    prompt: Prompt = {**model(T2V[0]), "lora": node("LoraLoaderModelOnly", **FAST)}
    values = {"steps": 0, "shift": 0.0, "boundary": 0.0, "denoise": 1.0, "model": ("lora", 0)}
    said = {}
    for scheduler in ("wan", "simple"):
        prompt[scheduler] = node("WanDuetSigmas", scheduler=scheduler, sampler="euler", **values)
        prompt[f"{scheduler}_end"] = node("PreviewAny", source=(scheduler, 0))
    result = comfy_server.run(prompt)
    assert result.status == "success", result.error
    for scheduler in ("wan", "simple"):
        (said[scheduler],) = result.texts(scheduler)
    assert "Scheduler wan leaves the noise levels to the model" in said["wan"]
    assert "leaves the noise levels" not in said["simple"]
    assert "0.5220" in str(result.outputs["wan_end"]["text"])
    assert "0.5220" not in str(result.outputs["simple_end"]["text"])


def test_rcm_runs_its_own_levels_in_both_forms(comfy_server: ComfyServer):
    """One step of each form by the formulas of TurboDiffusion, by what a step leaves."""
    prompt: Prompt = {**BASE}
    one: dict[str, Any] = {"model_low": None, "end_at_step": 1, "add_noise": "enable"}
    names = []
    for form in ("SDE", "ODE"):
        for leftover in ("enable", "disable"):
            name = f"{form}_{leftover}"
            names.append(name)
            changes = {"preset": f"TurboDiffusion / rCM, {form}", "seed": 9}
            changes["return_with_leftover_noise"] = leftover
            prompt |= moe_sampler(name, **{**OPEN, **one, **changes})
    saved = run_to_tensors(comfy_server, prompt, {name: (name, 0) for name in names})

    # ComfyUI gives latents in their own scale, and divides noisy ones by 1 - sigma.
    mean, std = (
        torch.tensor(each).view(1, -1, 1, 1, 1) for each in (wan21.LATENT_MEAN, wan21.LATENT_STD)
    )
    saved = {name: (latent - mean) / std for name, latent in saved.items()}
    first, second = 80 / 81, 0.933781061416858
    saved |= {f"{form}_enable": (1 - second) * saved[f"{form}_enable"] for form in ("SDE", "ODE")}
    x0 = saved["ODE_disable"]
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(9))
    assert relative(x0, saved["SDE_disable"]) <= ROUNDING
    velocity = (first * noise - x0) / first
    ode = first * noise - (first - second) * velocity
    assert relative(saved["ODE_enable"], ode) <= ROUNDING
    fresh = (saved["SDE_enable"] - (1 - second) * x0) / second
    assert abs(float(fresh.std()) - 1) < 0.1
    if not on_gpu():  # ComfyUI takes the seed for it, on a CPU the next one since it was noticed
        seeds = (torch.Generator().manual_seed(seed) for seed in (9, 10))
        noises = [torch.randn(x0.shape, generator=generator) for generator in seeds]
        assert min(relative(fresh, each) for each in noises) <= ROUNDING
