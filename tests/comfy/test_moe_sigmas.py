"""The switch step and the noise levels that our sigmas node gives."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from .graphs import Prompt, model, node, save
from .server import ComfyServer
from .stock import I2V_HIGH, T2V_HIGH, TI2V

pytestmark = pytest.mark.comfy

SCHEDULES = json.loads(
    (Path(__file__).parents[1] / "parity" / "golden" / "schedules.json").read_text()
)

SETTINGS = [(12, 0.875), (8, 0.875), (5, 0.875), (8, 0.9), (5, 0.9), (3, 0.9)]
TABLE = {
    4: ["3", "3", "2", "2", "2", "1|2"],
    6: ["4", "4", "3", "3", "3", "2"],
    8: ["6", "5", "4", "4", "3", "2|3"],
    10: ["7", "6", "5", "5", "4", "3"],
    12: ["8", "7", "5|6", "6", "5", "3|4"],
    16: ["11", "9", "7", "8", "6", "4|5"],
    20: ["13", "11", "9", "10", "8", "5|6"],
    25: ["16", "14", "11", "12", "9", "7"],
    30: ["19", "16|17", "13", "15", "11", "8"],
    40: ["26", "22", "17", "19", "15", "10|11"],
    50: ["32", "27", "21", "24", "18", "13"],
}
"""High-noise steps by number of steps: one number, or UniPC's and that of scheduler simple."""


def sigmas(node_id: str, **options: Any) -> Prompt:
    """Our node with a text output for its switch step."""
    defaults = {"steps": 0, "shift": 0.0, "scheduler": "wan", "boundary": 0.0, "denoise": 1.0}
    return {
        node_id: node("WanDuetSigmas", **{**defaults, **options}),
        f"{node_id}_step": node("PreviewAny", source=(node_id, 1)),
    }


def switch_steps(server: ComfyServer, prompt: Prompt) -> dict[str, int]:
    """Returns the switch step of every sigmas node."""
    result = server.run(prompt)
    assert result.status == "success", result.error
    nodes = [name for name in prompt if prompt[name]["class_type"] == "WanDuetSigmas"]
    return {name: int(result.outputs[f"{name}_step"]["text"][0]) for name in nodes}


def test_switch_step_of_the_table(comfy_server: ComfyServer):
    prompt, expected = {}, {}
    for steps, row in TABLE.items():
        for (shift, boundary), counts in zip(SETTINGS, row, strict=True):
            both = counts.split("|")
            for sampler, scheduler, count in (
                ("unipc", "wan", both[0]),
                ("euler", "simple", both[-1]),
            ):
                name = f"{steps} {shift} {boundary} {scheduler}"
                options = {"shift": float(shift), "boundary": boundary, "steps": steps}
                prompt |= sigmas(name, sampler=sampler, scheduler=scheduler, **options)
                expected[name] = int(count)

    assert switch_steps(comfy_server, prompt) == expected


def test_zeros_are_the_official_values_of_the_model(comfy_server: ComfyServer):
    prompt = {
        **model(T2V_HIGH, "t2v"),
        "i2v": node("UNETLoader", unet_name=I2V_HIGH, weight_dtype="default"),
        **model(TI2V, "ti2v"),
        **sigmas("none"),
        **sigmas("of_t2v", model=("t2v", 0)),
        **sigmas("of_i2v", model=("i2v", 0)),
        **sigmas("of_ti2v", model=("ti2v", 0)),
        **sigmas("dpm", sampler="dpm++"),
    }
    names = ("none", "of_t2v", "of_i2v", "of_ti2v", "dpm")
    for name in names:
        prompt |= save(f"sigmas_{name}", sigmas=(name, 0))
    steps = switch_steps(comfy_server, prompt)

    assert steps == {"none": 26, "of_t2v": 26, "of_i2v": 15, "of_ti2v": 50, "dpm": 26}
    official = {
        "none": ("steps40_shift12", "unipc_sigma"),
        "of_t2v": ("steps40_shift12", "unipc_sigma"),
        "of_i2v": ("steps40_shift5", "unipc_sigma"),
        "of_ti2v": ("steps50_shift5", "unipc_sigma"),
        "dpm": ("steps40_shift12", "dpm_sigma"),
    }
    for name, (case, key) in official.items():
        found = load_file(comfy_server.output / f"sigmas_{name}.safetensors")["sigmas"]
        torch.testing.assert_close(found, torch.tensor(SCHEDULES[case][key]), rtol=0, atol=1e-7)
