"""What is not as meant but can be run is said before a run and in its report."""

import shutil
from typing import Any

import pytest

from .graphs import (
    T2V,
    Prompt,
    experts,
    image_to_video,
    memory,
    model,
    moe_sampler,
    node,
    prompts,
    vae,
)
from .server import ComfyServer
from .stock import LORA

pytestmark = pytest.mark.comfy

HIGH, LOW = "toy_lightx2v_4steps_HIGH.safetensors", "toy_lightx2v_4steps_LOW.safetensors"
OFFICIAL = "toy_lightx2v_4steps_high_noise.safetensors"
NO_EFFECT = "The negative prompt has no effect at cfg 1"
SWAPPED = "The LoRAs look swapped"
OTHER = "but made for the other one by its name"
APART = "Two loaders hold the experts"
OPEN: dict[str, Any] = {"cfg_high": 0.0, "cfg_low": 0.0, "shift": 0.0, "steps": 0}


@pytest.fixture(scope="module", autouse=True)
def loras(comfy_server: ComfyServer) -> None:
    folder = comfy_server.base / "models" / "loras"
    for name in (HIGH, LOW, OFFICIAL):
        shutil.copy2(folder / LORA, folder / name)


def run_of(high: str, low: str, negative: str = "", nag: bool = False, **options: Any) -> Prompt:
    nodes: Prompt = {**experts(), **prompts(negative=negative), **vae(), **image_to_video()}
    links: dict[str, Any] = {}
    for number, (name, file) in enumerate((("model_high", high), ("model_low", low))):
        source: dict[str, Any] = {"model": ("experts", number), "strength_model": 1.0}
        nodes[name] = node("LoraLoaderModelOnly", **source, lora_name=file)
        links[name] = (name, 0)
    if nag:
        numbers = {"nag_scale": 11.0, "nag_alpha": 0.25, "nag_tau": 2.5}
        nodes["nag"] = node("WanDuetNAG", **links, negative=("text", 1), **numbers)
        links = {"model_high": ("nag", 0), "model_low": ("nag", 1)}
    opened = {**OPEN, "sampler": "auto", "scheduler": "auto", **options}
    return (
        nodes | moe_sampler(**links, **opened) | {"end": node("PreviewAny", source=("sampler", 0))}
    )


def stock_text(negative: str) -> Prompt:
    nodes = run_of(HIGH, LOW)
    nodes["stock"] = node("CLIPTextEncode", clip=("clip", 0), text=negative)
    nodes["size"]["inputs"]["negative"] = ["stock", 0]
    return nodes


def two_loaders(engine: bool) -> Prompt:
    nodes = run_of(LORA, LORA) | memory()
    for number, (name, file) in enumerate(zip(("model_high", "model_low"), T2V, strict=True)):
        limits = {"memory": ("memory", 0)} if engine else {}
        nodes |= model(file, f"single_{number}", **limits)
        nodes[name]["inputs"]["model"] = [f"single_{number}", 0]
    return nodes


CASES: list[tuple[Prompt, list[str]]] = [
    (run_of(HIGH, LOW), []),
    (run_of(HIGH, LOW, "blurred"), [NO_EFFECT]),
    (run_of(HIGH, LOW, "blurred", cfg_low=2.0), []),
    (run_of(HIGH, LOW, "blurred", preset="8 steps, three phases"), []),
    (run_of(HIGH, LOW, "blurred", nag=True), []),
    (stock_text("blurred"), [NO_EFFECT]),
    (stock_text(""), []),
    (run_of(LOW, HIGH), [SWAPPED]),
    (run_of(OFFICIAL, OFFICIAL), [OTHER]),
    (run_of(LORA, LORA), []),
    (two_loaders(engine=True), [APART]),
    (two_loaders(engine=False), []),
]


def told(lines: list[str]) -> list[str]:
    return [hint for hint in (NO_EFFECT, SWAPPED, OTHER, APART) for line in lines if hint in line]


def test_plans_say_it(comfy_server: ComfyServer):
    for number, (nodes, wanted) in enumerate(CASES):
        plan = comfy_server.post("/wanduet/check", {"prompt": nodes})["plans"]["sampler"]
        assert told(plan) == wanted, number


def test_reports_say_it(comfy_server: ComfyServer):
    nodes = run_of(LOW, HIGH, "blurred", end_at_step=1)
    result = comfy_server.run(nodes)
    assert result.status == "success", result.error
    (record,) = comfy_server.history(result.prompt_id)["outputs"]["sampler"]["wanduet_report"]
    assert told(record["report"].splitlines()) == [NO_EFFECT, SWAPPED]
