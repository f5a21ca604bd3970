"""API prompts with a value of a wrong type at one input of one of our nodes, by number."""

import copy
from collections.abc import Mapping
from random import Random
from typing import Any

from .client import PromptRejected
from .graphs import (
    Prompt,
    experts,
    image_to_video,
    memory,
    model,
    moe_sampler,
    node,
    prompts,
    save,
    vae,
)
from .server import ComfyServer
from .stock import LORA

OURS, TESTS = "WanDuet", "WanDuetTest"

NO_LINKS: list[Any] = [
    [],
    ["sampler"],
    ["sampler", 0, 0],
    ["no such node", 0],
    [7, 0],
    [None, None],
]
NO_LINKS += [["text", 99], ["text", -1], ["text", "0"], ["text", 0.5], ["text", None], [{}, []]]
NO_NUMBERS: list[Any] = ["many", "", "1.2.3", "0x10", None, {}, {"a": 1}, float("nan")]
NO_NUMBERS += [float("inf"), -float("inf"), True, False, "nan"]
WRONG: dict[str, list[Any]] = {
    "INT": [*NO_NUMBERS, 4.5, "4.5", 1e400],
    "FLOAT": NO_NUMBERS,
    "STRING": [None, True, {}, {"text": "a"}, {"__value__": ["a"]}],
    "BOOLEAN": ["false", "yes", "", None, {}, 2, 0.5, "0"],
    "COMBO": ["no such choice", "", 5, 2.5, True, None, {}, {"a": 1}, float("nan")],
    "link": ["text", "", 5, 2.5, True, None, {}, {"samples": 1}, float("nan"), "sampler"],
}
"""Values of each kind that mean nothing there; `NO_LINKS` beside them."""


def every_node() -> Prompt:
    """A right prompt in which each node of ours has an effect."""
    seen: Prompt = {
        **memory(),
        **experts(memory=("memory", 0)),
        **model("toy_ti2v.safetensors", memory=("memory", 0)),
        **vae(),
        **prompts(),
        **_written(),
        "spread": node(
            "WanDuetDistribute",
            **_pair("experts"),
            mode="auto",
            gpus=0,
            address="",
            vae=("vae", 0),
        ),
        **image_to_video(),
        "lora": node("WanDuetLoraPair", **_pair("experts"), **_loras()),
        "nag": node("WanDuetNAG", **_pair("lora"), negative=("text", 1), **_nag()),
        "windows": node("WanDuetContextWindows", **_pair("nag"), **_windows()),
        "sampler": moe_sampler(**_pair("windows"), steps=1)["sampler"],
        "join": node("WanDuetJoinClips", vae=("vae", 0), clip_1=("sampler", 0), **_joined()),
        "parts": node("GetVideoComponents", video=("join", 0)),
        "decode": node("WanDuetVAEDecode", vae=("vae", 0), samples=("sampler", 0), tiling="auto"),
        "compare": node("WanDuetCompare", video_a=("decode", 0), video_b=("parts", 0), fps=16.0),
        "cached": node("WanDuetStepCache", model=("model", 0), method="auto", **_window()),
        "compiled": node("WanDuetCompile", model=("cached", 0), mode="default"),
        "write": node(
            "WanDuetSaveModel", model=("compiled", 0), filename_prefix="m", format="bf16"
        ),
        "guider": node(
            *("WanDuetMoEGuider",),
            **_pair("spread"),
            positive=("schedule", 0),
            negative=("schedule", 1),
            cfg_high=1.0,
            cfg_low=1.0,
            boundary=0.0,
        ),
        "sigmas": node(
            *("WanDuetSigmas",),
            model=("experts", 0),
            sampler="euler",
            scheduler="wan",
            steps=1,
            shift=5.0,
            boundary=0.0,
            denoise=1.0,
        ),
        "select": node("WanDuetSamplerSelect", sampler="euler"),
        "noise": node("RandomNoise", noise_seed=1),
    }
    links = {"noise": "noise", "guider": "guider", "sampler": "select", "sigmas": "sigmas"}
    custom = {name: (source, 0) for name, source in links.items()}
    seen["text"]["inputs"]["positive"] = ["extended", 0]
    seen["custom"] = node("SamplerCustomAdvanced", **custom, latent_image=("size", 2))
    return seen | save("never", latent=("custom", 0))


def _pair(source: str) -> dict[str, Any]:
    return {"model_high": (source, 0), "model_low": (source, 1)}


def _written() -> Prompt:
    """A prompt with words of film, one that a language model writes, and one over time."""
    film = ("light", "time_of_day", "shot_size", "angle", "lens", "composition", "colour_tone")
    menus = dict.fromkeys((*film, "camera_movement", "style"), "open")
    asked = {"task": "text to video", "endpoint": "http://127.0.0.1:1/v1", "model": "none"}
    limits = {"on_failure": "use the prompt as it is", "time_limit": 1.0, "attempt": 0}
    shots = {"prompts": "0-1s: a cat", "negative": "", "transition": 8.0, "fps": 16.0}
    return {
        "film": node("WanDuetCinematic", prompt="a cat", **menus, language="English"),
        "extended": node(
            "WanDuetPromptExtend", prompt=("film", 0), language="English", **asked, **limits
        ),
        "schedule": node("WanDuetPromptSchedule", clip=("clip", 0), **shots),
    }


def _nag() -> dict[str, Any]:
    return {"nag_scale": 11.0, "nag_alpha": 0.25, "nag_tau": 2.5}


def _windows() -> dict[str, Any]:
    lengths = {"window_length": 81, "window_overlap": 30, "window_schedule": "uniform"}
    return {**lengths, "free_noise": True, "loop": False, "keep_image": True}


def _joined() -> dict[str, Any]:
    return {"blend": "cut", "match_colours": False, "overlap": 1, "loop": False, "fps": 0.0}


def _window() -> dict[str, Any]:
    return {"threshold": 0.0, "start_percent": 0.15, "end_percent": 0.95}


def _loras() -> dict[str, Any]:
    row = {"lora_high": LORA, "lora_low": "none", "strength_high": 1.0, "strength_low": 1.0}
    return {
        f"{key}{end}": value for end in ("", "_2") for key, value in {**row, "on": True}.items()
    }


OUTPUTS = ("compare", "write", "save_never")


def _run_for(node_id: str) -> Prompt:
    """Returns only outputs that a node has an effect on: ComfyUI runs those that are right."""
    whole = every_node()
    needed = {output: _upstream(whole, output) for output in OUTPUTS}
    kept = set().union(*(nodes for nodes in needed.values() if node_id in nodes))
    return {key: made for key, made in whole.items() if key in kept}


def _upstream(prompt: Prompt, node_id: str) -> set[str]:
    links = [value[0] for value in prompt[node_id]["inputs"].values() if isinstance(value, list)]
    return {node_id}.union(*(_upstream(prompt, link) for link in links))


def inputs_of(server: ComfyServer) -> list[tuple[str, str, str, bool]]:
    """Returns (id of a node in `every_node`, input, kind of `WRONG`, optional) of all inputs."""
    described = server.object_info()
    return [
        (node_id, name, _kind(given[0]), group == "optional")
        for node_id, made in every_node().items()
        if made["class_type"].startswith(OURS) and not made["class_type"].startswith(TESTS)
        for group in ("required", "optional")
        for name, given in described[made["class_type"]]["input"].get(group, {}).items()
    ]


def _kind(given: Any) -> str:
    if isinstance(given, list):
        return "COMBO"
    return given if given in WRONG else "link"


def judged(
    server: ComfyServer, inputs: list[tuple[str, str, str, bool]], number: int
) -> str | None:
    """Queues one case; returns what is wrong with the answer, None if it is as it should be."""
    node_id, name, kind, optional = inputs[number % len(inputs)]
    values = [
        value
        for value in (*WRONG[kind], *NO_LINKS)
        if not (value is None and kind == "link" and optional)  # null is nothing
    ]
    value = copy.deepcopy(Random(number).choice(values))
    prompt = _run_for(node_id)
    prompt[node_id]["inputs"][name] = value
    case = f"case {number}: {node_id}.{name} ({kind}) = {value!r}"
    try:
        server.queue(prompt)
    except PromptRejected as refusal:
        wrong = _misplaced(refusal, node_id, name)
        return wrong and f"{case}: {wrong}"
    return f"{case}: was queued"


def _misplaced(refusal: PromptRejected, node_id: str, name: str) -> str | None:
    if refusal.status != 400:
        return f"status {refusal.status}"
    found: Mapping[str, Any] = refusal.node_errors
    named = [
        (where, error.get("extra_info", {}).get("input_name"))
        for where, each in found.items()
        for error in each["errors"]
    ]
    return None if set(named) == {(node_id, name)} else f"{refusal.error.get('type')} at {named}"
