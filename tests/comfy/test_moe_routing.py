"""Which expert is called at which step, with which timestep and how often: recorded calls."""

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from .graphs import T2V, TI2V, Prompt, experts, model, moe_sampler, node, random_text
from .server import ComfyServer
from .stock import empty_latent

pytestmark = pytest.mark.comfy

SCHEDULES = json.loads(
    (Path(__file__).parents[1] / "parity" / "golden" / "schedules.json").read_text()
)

Calls = list[dict[str, Any]]


def recorded(name: str, **options: Any) -> Prompt:
    """Our sampler on recorded experts, one token large; its calls are written to NAME.jsonl."""
    links = {
        "positive": ("positive", 0),
        "negative": ("negative", 0),
        "latent_image": ("latent", 0),
    }
    nodes = {
        f"{name}_{label}": node(
            "WanDuetTestRecordCalls", model=("experts", i), label=label, name=name
        )
        for i, label in enumerate(("high", "low"))
    }
    pair = {"model_high": (f"{name}_high", 0), "model_low": (f"{name}_low", 0)}
    return {**nodes, **moe_sampler(f"sampler_{name}", **{**pair, **links, **options})}


def run(server: ComfyServer, cases: dict[str, dict[str, Any]]) -> dict[str, Calls]:
    """Runs one sampler per case, in one prompt, and returns its calls."""
    prompt = {**experts(T2V), **random_text(64, 8), **empty_latent(16, 16, 1)}
    for name, options in cases.items():
        prompt |= recorded(name, **options)
        prompt[f"end_{name}"] = node("PreviewAny", source=(f"sampler_{name}", 0))
        for file in (name, f"{name}_uses"):
            (server.output / f"{file}.jsonl").unlink(missing_ok=True)
    result = server.run(prompt)
    assert result.status == "success", result.error
    return {name: calls(server, name) for name in cases}


def calls(server: ComfyServer, name: str) -> list[Any]:
    path = server.output / f"{name}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def order(found: Calls) -> list[tuple[str, int]]:
    """Runs of calls to one expert: [("high", 9), ("low", 11)]."""
    return [(label, len(list(run))) for label, run in groupby(c["label"] for c in found)]


def timesteps(found: Calls) -> list[float]:
    """The one timestep of every call."""
    assert all(len(call["timesteps"]) == 1 for call in found)
    return [call["timesteps"][0] for call in found]


# steps, shift, boundary, high-noise steps of UniPC, of DPM++ and Euler
TABLE = [
    (4, 12, 0.875, 3, 3),
    (4, 3, 0.900, 1, 2),
    (8, 8, 0.875, 5, 5),
    (8, 3, 0.900, 2, 3),
    (12, 5, 0.875, 5, 6),
    (16, 3, 0.900, 4, 5),
    (20, 12, 0.875, 13, 13),
    (20, 5, 0.900, 8, 8),
    (40, 3, 0.900, 10, 11),
    (40, 12, 0.875, 26, 26),
]


@pytest.mark.parametrize("sampler", ["unipc", "dpm++", "euler"])
def test_expert_of_every_step(comfy_server: ComfyServer, sampler: str):
    cases = {}
    for steps, shift, boundary, *_ in TABLE:
        name = f"{sampler}_{steps}_{shift}_{int(boundary * 1000)}"
        settings = {"steps": steps, "shift": float(shift), "boundary": boundary}
        cases[name] = {"sampler": sampler, **settings}
    found = run(comfy_server, cases)

    for (steps, _, _, unipc, others), of_case in zip(TABLE, found.values(), strict=True):
        high = unipc if sampler == "unipc" else others
        assert order(of_case) == [("high", high), ("low", steps - high)]


def test_official_timesteps(comfy_server: ComfyServer):
    cases = {
        f"t_{sampler}_{steps}_{shift}": {"sampler": sampler, "steps": steps, "shift": float(shift)}
        for sampler in ("unipc", "dpm++", "euler")
        for steps, shift in ((4, 5), (20, 12), (40, 12))
    }
    found = run(comfy_server, cases)

    for name, of_case in found.items():
        _, sampler, steps, shift = name.split("_")
        official = SCHEDULES[f"steps{steps}_shift{shift}"]
        expected = {
            "unipc": official["unipc_t"],
            "dpm++": official["dpm_t"],
            "euler": [1000 * sigma for sigma in official["dpm_sigma"][:-1]],
        }
        assert timesteps(of_case) == pytest.approx(expected[sampler], abs=2e-3)


def test_guidance_scale_of_each_expert_decides_its_forwards(comfy_server: ComfyServer):
    cases = {
        "cfg_11": {"cfg_high": 1.0, "cfg_low": 1.0},
        "cfg_31": {"cfg_high": 3.0, "cfg_low": 1.0},
        "cfg_13": {"cfg_high": 1.0, "cfg_low": 3.0},
        "cfg_official": {"cfg_high": 0.0, "cfg_low": 0.0},
    }
    found = run(comfy_server, cases)

    for name, of_case in found.items():
        forwards = {
            label: sum(len(call["conds"]) for call in of_case if call["label"] == label)
            for label in ("high", "low")
        }
        twice = {"cfg_11": (1, 1), "cfg_31": (2, 1), "cfg_13": (1, 2), "cfg_official": (2, 2)}
        assert (forwards["high"], forwards["low"]) == tuple(2 * n for n in twice[name])


def test_only_experts_that_are_needed_are_called(comfy_server: ComfyServer):
    cases = {
        "before": {"steps": 8, "end_at_step": 3, "return_with_leftover_noise": "enable"},
        "after": {"steps": 8, "start_at_step": 6, "add_noise": "disable"},
        "denoised": {"steps": 4, "denoise": 0.4},
        "all_high": {"steps": 3, "boundary": 0.001},
    }
    found = run(comfy_server, cases)

    assert {name: order(of_case) for name, of_case in found.items()} == {
        "before": [("high", 3)],
        "after": [("low", 2)],
        "denoised": [("low", 4)],
        "all_high": [("high", 3)],
    }
    for name, of_case in found.items():
        assert set(calls(comfy_server, f"{name}_uses")) == {call["label"] for call in of_case}


def test_core_samplers_run_over_both_experts(comfy_server: ComfyServer):
    names = ("heun", "dpmpp_2m", "res_multistep", "euler_cfg_pp", "dpmpp_sde", "uni_pc", "lcm")
    cases = {
        f"core_{name}": {"sampler": name, "scheduler": scheduler, "steps": 6, "cfg_high": 2.0}
        for name, scheduler in zip(
            names, ("simple", "beta", "wan", "wan", "normal", "simple", "wan"), strict=True
        )
    }
    found = run(comfy_server, cases)

    for name, of_case in found.items():
        assert {call["label"] for call in of_case} == {"high", "low"}, name
        for call in of_case:
            (timestep,) = call["timesteps"]
            assert (call["label"] == "high") == (timestep >= 875), name
        conds = [len(call["conds"]) for call in of_case if call["label"] == "low"]
        assert set(conds) == {2 if name == "core_euler_cfg_pp" else 1}, name


def test_one_model_runs_all_steps(comfy_server: ComfyServer):
    links: dict[str, Any] = {
        "positive": ("positive", 0),
        "negative": ("negative", 0),
        "latent_image": ("latent", 0),
    }
    sizes = {"width": 32, "height": 32, "length": 5, "batch_size": 1}
    prompt = {
        **model(TI2V),
        **random_text(64, 8),
        "vae": node("WanDuetVAELoader", vae_name="toy_wan2.2_vae.safetensors", precision="fp32"),
        "latent": node("Wan22ImageToVideoLatent", vae=("vae", 0), **sizes),
        "record": node("WanDuetTestRecordCalls", model=("model", 0), label="only", name="single"),
        **moe_sampler(
            model_high=("record", 0),
            model_low=None,
            sampler="unipc",
            steps=20,
            cfg_high=0.0,
            **links,
        ),
        "end": node("PreviewAny", source=("sampler", 0)),
    }
    (comfy_server.output / "single.jsonl").unlink(missing_ok=True)
    result = comfy_server.run(prompt)

    assert result.status == "success", result.error
    found = calls(comfy_server, "single")
    assert sum(len(call["conds"]) for call in found) == 40
    steps = [call for call in found if 1 not in call["conds"]] or found
    expected = SCHEDULES["steps20_shift5"]["unipc_t"]
    assert timesteps([c for c in steps if 0 in c["conds"]]) == pytest.approx(expected, abs=2e-3)


def test_every_core_sampler_and_scheduler(comfy_server: ComfyServer):
    inputs = comfy_server.object_info("WanDuetMoESampler")["WanDuetMoESampler"]["input"]["required"]
    samplers, schedulers = (combo_options(inputs[name]) for name in ("sampler", "scheduler"))
    assert samplers[:4] == ["auto", "unipc", "dpm++", "euler"]
    assert schedulers[:2] == ["auto", "wan"]
    assert len(samplers) > 30
    assert len(schedulers) > 8
    cases = {f"sampler_{name}": {"sampler": name, "cfg_high": 2.0} for name in samplers}
    for name in schedulers:
        cases[f"scheduler_{name}"] = {"sampler": "unipc", "scheduler": name, "steps": 12}
    found = run(comfy_server, cases)

    for name, of_case in found.items():
        assert {call["label"] for call in of_case} <= {"high", "low"}, name
        for call in of_case:
            # Samplers may look at both sides of a step at once.
            assert all((call["label"] == "high") == (t >= 875) for t in call["timesteps"]), name


def combo_options(description: list[Any]) -> list[str]:
    """Returns the choices of a combo input, in either form of object_info."""
    return description[0] if isinstance(description[0], list) else description[1]["options"]
