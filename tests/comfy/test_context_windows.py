"""Context windows over both experts: what the model sees of a long video."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from .graphs import (
    I2V,
    TI2V,
    VAE_22,
    Prompt,
    experts,
    image_to_video,
    memory,
    model,
    moe_sampler,
    node,
    random_text,
    save,
    stock_model,
    vae,
)
from .server import ComfyServer
from .stock import T2V_HIGH
from .test_other_nodes_core import widgets

pytestmark = pytest.mark.comfy

LENGTH, WINDOW, FRAMES = 25, 13, 7
"""Frames of video; of a window; latent frames of the video. A window has four of these."""
LINKS = {"positive": ("positive", 0), "negative": ("negative", 0), "length": LENGTH}
IMAGE = {"start": node("WanDuetTestImage", seed=1, width=64, height=48, count=1, channels=3)}
BOTH = {"model_high": ("windows", 0), "model_low": ("windows", 1)}


def recorded(name: str, sources: tuple[tuple[str, int], ...]) -> Prompt:
    """MODELs whose calls are saved as NAME_*.safetensors: ("record_0", 0) and so on."""
    return {
        f"record_{number}": node("WanDuetTestRecordModel", model=source, name=name)
        for number, source in enumerate(sources)
    }


def windows(**options: object) -> Prompt:
    """Our node on what is recorded: outputs ("windows", 0) and ("windows", 1)."""
    defaults = {
        "model_high": ("record_0", 0),
        "model_low": ("record_1", 0),
        "window_length": WINDOW,
        "window_overlap": 4,
        "window_schedule": "uniform",
        "free_noise": True,
        "loop": False,
        "keep_image": True,
    }
    merged = {k: v for k, v in {**defaults, **options}.items() if v is not None}
    return {"windows": node("WanDuetContextWindows", **merged)}


def sample(
    server: ComfyServer, name: str, prompt: Prompt, latent: str = "sampler"
) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Runs a prompt; returns the latent and what the model was given, call by call."""
    result = server.run({**random_text(64, 20), **prompt, **save(name, latent=(latent, 0))})
    assert result.status == "success", result.error
    calls = sorted(server.output.glob(f"{name}_[0-9]*.safetensors"), key=number_of)
    return load_file(server.output / f"{name}.safetensors")["samples"], [*map(load_file, calls)]


def number_of(path: Path) -> int:
    return int(path.stem.rsplit("_", 1)[1])


def test_both_experts_see_windows_and_the_image(comfy_server: ComfyServer):
    prompt: Prompt = {
        **experts(I2V),
        **recorded("cut", (("experts", 0), ("experts", 1))),
        **windows(),
        **vae(),
        **IMAGE,
        **image_to_video(**LINKS, start_image=("start", 0)),
        **moe_sampler(**BOTH, steps=3),
    }
    latent, calls = sample(comfy_server, "cut", prompt)

    assert latent.shape[2] == FRAMES
    assert latent.isfinite().all()
    seen = {float(call["timestep"][0]) for call in calls}
    assert max(seen) >= 0.9 > min(seen), "both experts"
    assert len(calls) >= 3 * len(seen) - 1, "several windows in every step"
    first = calls[0]["c_concat"][:, :, :1]
    for call in calls:
        assert call["input"].shape[2] == call["c_concat"].shape[2] == 4
        assert torch.equal(call["c_concat"][:, :, :1], first), "the image is kept"


def test_windows_begin_with_the_frame_before(comfy_server: ComfyServer):
    """Of the first step's windows, each holds three frames of the noise and one beside them."""
    prompt: Prompt = {
        **stock_model(T2V_HIGH),
        **random_text(),
        **recorded("before", (("stock_model", 0),)),
        **windows(model_low=None, window_schedule="static", free_noise=False),
        **vae(),
        **image_to_video(**LINKS),
        **moe_sampler(model_high=("windows", 0), model_low=None, steps=1),
    }
    _, calls = sample(comfy_server, "before", prompt)

    assert [call["input"].shape[2] for call in calls] == [4, 4, 4]
    lines = comfy_server.post("/wanduet/check", {"prompt": prompt})["plans"]["sampler"]
    assert "1.6 s of video, in about 3 windows of 48 tokens" in lines
    frames = [call["input"] for call in calls]
    assert torch.equal(frames[0][:, :, 1:], frames[1][:, :, :3])
    assert torch.equal(frames[1][:, :, 2:], frames[2][:, :, :2])


@pytest.mark.parametrize(("length", "sampler"), [(WINDOW, "euler"), (LENGTH, "dpm_2")])
def test_a_loop_goes_round(comfy_server: ComfyServer, length: int, sampler: str):
    """A step's windows begin elsewhere than those of the step before.

    dpm_2 looks between two steps as well, but for the last one: core of 2025 refuses that.
    """
    name = f"loop{length}"
    prompt: Prompt = {
        **experts(),
        **recorded(name, (("experts", 0), ("experts", 1))),
        **windows(loop=True, free_noise=False),
        **vae(),
        **image_to_video(**{**LINKS, "length": length}),
        **moe_sampler(**BOTH, steps=3, sampler=sampler),
    }
    latent, calls = sample(comfy_server, name, prompt)

    assert latent.isfinite().all()
    frames = [call["input"].shape[2] for call in calls]
    if length == WINDOW:
        assert frames == [5] * 3, "all of them, and first the one before"
    else:
        assert frames == [4] * 4 * (2 + 2 + 1)


@pytest.mark.parametrize("given", [True, False])
def test_a_given_first_frame_of_5b_is_kept_in_every_window(comfy_server: ComfyServer, given: bool):
    """Without an image there is none to keep: a window begins with the frame before it."""
    name = f"kept{given}"
    image = {"start_image": ("start", 0)} if given else {}
    prompt: Prompt = {
        **model(TI2V),
        **recorded(name, (("model", 0),)),
        **windows(model_low=None),
        **vae(VAE_22),
        **IMAGE,
        **image_to_video(**{**LINKS, "height": 64, **image}),
        **moe_sampler(model_high=("windows", 0), model_low=None, steps=2),
    }
    latent, calls = sample(comfy_server, name, prompt)

    assert len(calls) > 2
    first = calls[0]["input"][:, :, 0]
    same = [torch.equal(call["input"][:, :, 0], first) for call in calls]
    assert all(same) if given else not all(same)
    assert latent.shape[2] == FRAMES


def test_a_model_for_the_first_steps_has_windows_of_its_own(comfy_server: ComfyServer):
    wide = windows(model_high=("record_0", 0), model_low=None, window_length=17)["windows"]
    start = {"model_start": ("wide", 0), "start_steps": 1, "cfg_start": 1.0}
    prompt: Prompt = {
        **experts(),
        **recorded("own", (("experts", 0), ("experts", 1))),
        **windows(),
        "wide": wide,
        **vae(),
        **image_to_video(**LINKS),
        **moe_sampler(**BOTH, **start, steps=4, sampler="euler"),
    }
    latent, calls = sample(comfy_server, "own", prompt)

    assert latent.isfinite().all()
    levels = [float(call["timestep"][0]) for call in calls]
    frames: dict[bool, set[int]] = {True: set(), False: set()}
    for call, level in zip(calls, levels, strict=True):
        frames[level == max(levels)].add(call["input"].shape[2])
    assert frames == {True: {5}, False: {4}}


def test_a_long_video_takes_the_memory_of_a_window(comfy_server: ComfyServer):
    """Beside it there are its latents; for the other expert only what it adds to them.

    Newer cores' own windows are a frame longer than set.
    """
    known = comfy_server.object_info("WanContextWindowsManual")["WanContextWindowsManual"]
    cores = {**widgets(known), "context_length": WINDOW, "context_overlap": 4}
    planned, latents, calls = {}, {}, {}
    for name, frames, source in (
        ("short", WINDOW, "record_0"),
        ("longer", WINDOW + 4, "record_0"),
        ("windows", LENGTH, "windows"),
        ("cores", LENGTH, "cores"),
        ("both", LENGTH, "both"),
    ):
        low = {"model_low": ("both", 1), "steps": 2} if name == "both" else {"model_low": None}
        prompt: Prompt = {
            **memory(blocks_to_swap=1),
            **experts(memory=("memory", 0)),
            **recorded(f"fit_{name}", (("experts", 0),)),
            **windows(model_low=None),
            "both": windows(model_low=("experts", 1))["windows"],
            "cores": node("WanContextWindowsManual", model=("record_0", 0), **cores),
            **vae(),
            **image_to_video(**{**LINKS, "length": frames}),
            **moe_sampler(**{"steps": 1, "model_high": (source, 0), **low}),
            "look": node(
                "WanDuetTestTakeMemory",
                model=("experts", 0),
                latent=("sampler", 0),
                nbytes=0,
                name=f"{name}_window",
            ),
        }
        _, given = sample(comfy_server, f"fit_{name}", prompt, "look")
        told = (comfy_server.output / f"{name}_window.jsonl").read_text().splitlines()[-1]
        state = json.loads(told)
        planned[name], latents[name] = state["activation_bytes"], state["run_bytes"]
        calls[name] = {call["input"].shape[2] for call in given}
    assert calls["windows"] == calls["short"] == {4}
    assert planned["windows"] == planned["short"] < planned["longer"]
    assert planned["cores"] == planned["longer" if max(calls["cores"]) == 5 else "short"]
    assert latents["windows"] >= 9 * 4 * 16 * 3 * 6 * 8 > latents["short"] == 0
    sums = 3 * 4 * 16 * FRAMES * 6 * 8
    assert latents["cores"] > latents["both"] >= sums, "what the other expert adds"


def test_too_much_overlap_is_refused(comfy_server: ComfyServer):
    prompt: Prompt = {
        **experts(),
        **recorded("wide", (("experts", 0), ("experts", 1))),
        **windows(window_overlap=12),
        **vae(),
        **image_to_video(**LINKS),
        **moe_sampler(**BOTH, steps=1),
        **random_text(64, 20),
        **save("wide", latent=("sampler", 0)),
    }
    result = comfy_server.run(prompt)

    assert result.error is not None
    assert "Got window_overlap 12 for window_length 13, need at most 8" in str(result.error)
