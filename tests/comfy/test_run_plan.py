"""What the editor is told before a run, what a run leaves in history and metadata."""

import json
from typing import Any

import pytest

from .graphs import (
    T2V,
    Prompt,
    experts,
    image_to_video,
    model,
    moe_sampler,
    node,
    random_text,
    vae,
)
from .server import ComfyServer

pytestmark = pytest.mark.comfy

EXPERTS = {"model_high": ("experts", 0), "model_low": ("experts", 1)}
CUT = {
    "window_length": 13,
    "window_overlap": 4,
    "window_schedule": "static",
    "free_noise": True,
    "loop": False,
    "keep_image": True,
}
LINKS = {"positive": ("positive", 0), "negative": ("negative", 0)}


def prompt(seed: int, **options: Any) -> Prompt:
    return {
        **experts(T2V),
        **random_text(64, 8),
        **vae(),
        **image_to_video(**LINKS, length=9),
        **moe_sampler(seed=seed, **options),
        "end": node("PreviewAny", source=("sampler", 0)),
    }


def plan(server: ComfyServer, nodes: Prompt) -> list[str]:
    return server.post("/wanduet/check", {"prompt": nodes})["plans"]["sampler"]


def test_plan_before_and_after_the_first_run(comfy_server: ComfyServer):
    before = plan(comfy_server, prompt(201))
    assert before[0].startswith("T2V (dim 256, 2 layers), high noise, fp16, ")
    assert before[1].startswith("T2V (dim 256, 2 layers), low noise, fp16, ")
    assert before[2] == "fp32 matmuls; attention: sdpa"
    assert before[3] == "0.6 s of video, 36 tokens"
    assert before[4].startswith("Predicted peak: ")
    assert before[5].startswith("Predicted time: ")

    times = comfy_server.base / "user" / "wanduet" / "paces.json"
    times.parent.mkdir(parents=True, exist_ok=True)
    damaged = [[0, 1], ["a", 1], [36, float("nan")], [36]]  # as none, before a run and after it
    times.write_text(json.dumps({"a": damaged, "b": 5}))
    assert plan(comfy_server, prompt(201))[5].startswith("Predicted time: known after")
    result = comfy_server.run(prompt(201))
    assert result.status == "success", result.error
    after = plan(comfy_server, prompt(201))
    assert after[:5] == before[:5]
    assert " s to " in after[5]
    both = {"model_high": ("behind", 0), "model_low": ("behind", 1)}
    cut = {
        **prompt(201),
        **image_to_video(**LINKS, length=49),
        **moe_sampler(seed=201, **both),
        "behind": node("WanDuetContextWindows", **EXPERTS, **CUT),
    }
    long = plan(comfy_server, cut)
    assert long[3] == "3.1 s of video, in about 6 windows of 48 tokens"
    assert long[4] == before[4], "hardly more than a window"
    assert " s to " in long[5], "known from runs without windows"
    assert plan(comfy_server, {**cut, **image_to_video(**LINKS, length=9)})[3] == before[3]
    two = plan(comfy_server, {**prompt(201), **image_to_video(**LINKS, length=9, batch_size=2)})
    assert two[3] == "2 videos of 0.6 s, 36 tokens"
    some = {**prompt(201), **image_to_video(**LINKS, length=9, batch_size=("elsewhere", 0))}
    assert plan(comfy_server, some) == before[:3], "only the run knows how many videos"
    cut["behind"]["inputs"]["window_overlap"] = 99
    refused = plan(comfy_server, cut)
    assert refused[3] == "3.1 s of video, 156 tokens"
    assert refused[5] == "Predicted time: not known with these context windows"
    times.write_text(json.dumps(dict.fromkeys(json.loads(times.read_text()), damaged)))
    assert plan(comfy_server, prompt(201))[5].startswith("Predicted time: known after")

    faster = plan(comfy_server, {**prompt(201), **experts(T2V, speed="fastest", attention="auto")})
    assert faster[2] == (
        "fp32 matmuls; attention: sdpa; kitchen_sol needs an NVIDIA GPU or an AMD one; "
        "speed: fastest"
    )
    assert faster[3].startswith("No step is skipped: a run of ")
    assert faster[-1].startswith("Predicted time: known after the first run"), "of this tier"

    nothing = {**prompt(201), "experts": node("LoadImage", image="a.png")}
    assert plan(comfy_server, nothing) == []


def test_a_plan_says_what_each_loader_will_do(comfy_server: ComfyServer):
    for loader, said in (
        ("UNETLoader", "ComfyUI chooses for its own loader"),
        ("UnetLoaderGGUF", "the loader UnetLoaderGGUF chooses"),
    ):
        others = {"experts": node(loader, unet_name=T2V[0])}
        assert f"Precision and attention: as {said}" in plan(comfy_server, prompt(201) | others)

    pair = {**model(T2V[0], "one"), **model(T2V[1], "two", precision="auto")}
    sampler = moe_sampler(seed=1, model_high=("one", 0), model_low=("two", 0))
    apart = plan(comfy_server, {**prompt(201), **pair, **sampler})
    assert "High noise: fp32 matmuls; attention: sdpa" in apart
    assert "Low noise: fp32 matmuls: this runs on the CPU; attention: sdpa" in apart

    pair = experts(T2V, device_low="cuda:7")
    assert plan(comfy_server, prompt(201) | pair)[-1].startswith("This computer has no such device")
    pair = experts(T2V, attention="sage")
    assert "Got 'sage', which needs an NVIDIA GPU" in plan(comfy_server, prompt(201) | pair)[2]
    for linked in ("speed", "device_low"):
        lines = plan(comfy_server, prompt(201) | experts(T2V, **{linked: ("elsewhere", 0)}))
        assert lines[2] == "Precision and attention: known when the loader runs"
        assert lines[-2] == "Predicted peak: known when the loader runs"
        assert lines[-1].startswith("Predicted time: not known, since links ")


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        ("WanDuetContextWindows", CUT, "known after"),
        ("WanDuetContextWindows", {**CUT, "window_length": ("elsewhere", 0)}, "not known"),
        ("WanDuetDistribute", {"gpus": 2, "vae": ("vae", 0)}, "known after"),
    ],
)
def test_a_plan_heeds_what_lies_behind_the_loader(
    comfy_server: ComfyServer, kind: str, values: dict[str, Any], said: str
):
    behind = {"behind": node(kind, **EXPERTS, **values)}
    run = {"steps": 20, "start_at_step": 15, "end_at_step": 19}
    sampler = moe_sampler(seed=1, model_high=("behind", 0), model_low=("behind", 1), **run)
    lines = plan(comfy_server, prompt(1) | experts(T2V, speed="fastest") | behind | sampler)
    reason = "context windows run " if "Windows" in kind else "a run of 4 steps has none to spare"
    assert any(line.startswith(f"No step is skipped: {reason}") for line in lines)
    assert lines[-1].startswith(f"Predicted time: {said}")


def test_report_and_values_stay_with_the_run(comfy_server: ComfyServer):
    nodes = prompt(202, cfg_high=0.0, steps=4, shift=0.0)
    nodes["decode"] = node(
        "WanDuetVAEDecode", vae=("vae", 0), samples=("sampler", 0), tiling="auto"
    )
    nodes["saved"] = node("SaveImage", images=("decode", 0), filename_prefix="report")
    body = {"prompt": nodes, "extra_data": {"extra_pnginfo": {"workflow": {}}}}
    prompt_id = comfy_server.post("/prompt", body)["prompt_id"]
    comfy_server.run(prompt(203))  # queued behind it

    outputs = comfy_server.history(prompt_id)["outputs"]
    (record,) = outputs["sampler"]["wanduet_report"]
    assert (record["cfg_high"], record["shift"], record["steps"]) == (4.0, 12.0, 4)
    assert record["boundary"] == 0.875
    lines = record["report"].splitlines()
    assert any(line.startswith("4 of 4 steps in ") for line in lines)
    assert any(line.startswith("High-noise expert: 3 steps, ") for line in lines)
    assert any(line.startswith("Low-noise expert: 1 step, ") for line in lines)
    assert any("GiB RAM" in line for line in lines)
    file = comfy_server.output_path(outputs["saved"]["images"][0])
    text = file.read_bytes().decode("latin-1")
    found = text[text.index('{"sampler": {"model"') :]
    assert json.JSONDecoder().raw_decode(found)[0] == {"sampler": record}


def test_a_run_goes_on_whatever_a_client_says_of_its_workflow(comfy_server: ComfyServer):
    anything = ([1], "x", {"wanduet": 5}, {"workflow": [1]}, {"workflow": {"id": ["a"]}})
    for seed, said in enumerate(anything, 204):
        extra = {"extra_pnginfo": said}
        ended = comfy_server.run(prompt(seed), as_editor=True, extra_data=extra)
        assert ended.status == "success", ended.error
        assert ended.outputs["sampler"]["wanduet_report"]
