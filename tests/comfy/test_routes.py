"""Routes that the graph editor asks. Every answer is JSON with status 200, errors too."""

import json
import os
import sys
from pathlib import Path
from urllib.parse import urlencode

import pytest
from websocket import create_connection

from wan_model.config import OFFICIAL
from wan_model.sampling import SOLVERS, expert_split, make_sigmas, make_timesteps

from .client import PromptRejected
from .graphs import Prompt, experts, memory, moe_sampler, node, vae
from .server import ComfyServer

pytestmark = pytest.mark.comfy

SCHEDULE = {
    "sampler": "euler",
    "scheduler": "simple",
    "steps": 4,
    "shift": 5,
    "boundary": 0.9,
    "denoise": 1,
    "start_at_step": 0,
    "end_at_step": 10_000,
    "return_with_leftover_noise": "disable",
}


def ask(server: ComfyServer, route: str, **query: object) -> dict:
    return server.get(f"/wanduet/{route}?{urlencode(query)}")


@pytest.mark.parametrize("kind", ["t2v", "i2v"])
def test_describe_gives_the_official_settings(comfy_server: ComfyServer, kind):
    name = f"toy_{kind}_low_noise.safetensors"
    answer = ask(comfy_server, "describe", folder="diffusion_models", name=name)

    official = OFFICIAL[kind]
    for field in ("steps", "shift", "boundary", "cfg_high", "cfg_low", "fps"):
        assert answer[field] == getattr(official, field)
    assert (answer["kind"], answer["expert"]) == (kind, "low")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("diffusion_models", "no such file.safetensors"),
        ("diffusion_models", "../vae/toy_wan_2.1_vae.safetensors"),
        ("diffusion_models", "/etc/passwd"),
        ("vae", "toy_wan_2.1_vae.safetensors"),
        ("no such folder", "toy_ti2v.safetensors"),
    ],
)
def test_describe_opens_listed_diffusion_models_only(
    comfy_server: ComfyServer, folder: str, name: str
):
    answer = ask(comfy_server, "describe", folder=folder, name=name)

    assert list(answer) == ["error"]
    assert name in answer["error"]


def schedule(server: ComfyServer, **changes: object) -> dict:
    return ask(server, "schedule", **SCHEDULE | changes)


def test_schedule_is_that_of_the_scheduler(comfy_server: ComfyServer):
    whole = schedule(comfy_server)
    assert whole["full"] == whole["sigmas"] == pytest.approx([1, 0.9375, 5 / 6, 0.625, 0])
    assert whole["timesteps"] == [1000, 937, 833, 625]
    assert (whole["first"], whole["high"], whole["low"]) == (0, 2, 2)

    part = schedule(comfy_server, steps=2, denoise=0.5)
    assert part["sigmas"] == pytest.approx(whole["full"][2:])
    assert (part["high"], part["low"]) == (0, 2)


@pytest.mark.parametrize("solver", SOLVERS)
def test_schedule_wan_is_the_official_list_bit_by_bit(comfy_server: ComfyServer, solver):
    answer = schedule(comfy_server, sampler=solver, scheduler="wan", steps=26, shift=17)

    assert answer["full"] == make_sigmas(solver, 26, 17).tolist()
    assert answer["timesteps"] == make_timesteps(solver, 26, 17).tolist()
    assert answer["high"] == expert_split(solver, 26, 17, 0.9)


def test_schedule_of_a_step_range(comfy_server: ComfyServer):
    full = schedule(comfy_server)["full"]
    middle = schedule(comfy_server, start_at_step=1, end_at_step=3)
    assert (middle["full"], middle["first"]) == (full, 1)
    assert middle["sigmas"] == [*full[1:3], 0]
    assert (middle["high"], middle["low"]) == (1, 1)

    kept = schedule(comfy_server, end_at_step=3, return_with_leftover_noise="enable")
    assert kept["sigmas"] == full[:4]

    nothing = schedule(comfy_server, start_at_step=4)
    assert (nothing["sigmas"], nothing["timesteps"]) == ([], [])
    assert (nothing["high"], nothing["low"]) == (0, 0)


def test_schedule_with_levels_and_first_steps(comfy_server: ComfyServer):
    levels = {"levels": "0.99,0.93,0.85,0.6,0", "steps": 4}
    answer = schedule(comfy_server, **levels, start_steps=1)
    assert answer["full"] == pytest.approx([0.99, 0.93, 0.85, 0.6, 0])
    assert (answer["start"], answer["high"], answer["low"]) == (1, 1, 2)
    assert schedule(comfy_server, **levels, start_steps=9)["start"] == 2
    later = schedule(comfy_server, **levels, start_steps=2, start_at_step=1)
    assert (later["start"], later["high"]) == (1, 0)
    assert "error" in schedule(comfy_server, levels="0.5,0.9,0")


def test_schedule_of_one_expert_has_no_switch(comfy_server: ComfyServer):
    query = {name: value for name, value in SCHEDULE.items() if name != "boundary"}
    answer = ask(comfy_server, "schedule", **query)
    assert (answer["high"], answer["low"]) == (0, 4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scheduler": "no such scheduler"},
        {"sampler": ""},
        {"steps": 0},
        {"steps": "four"},
        {"steps": 10_001},
        {"steps": 1000, "denoise": 0.01},
        {"shift": 0},
        {"shift": "nan"},
        {"shift": 1e308},
        {"shift": 1e-320},
        {"denoise": 1.5},
        {"denoise": "nan"},
        {"boundary": 1.5},
        {"start_at_step": -1},
        {"end_at_step": "last"},
    ],
)
def test_schedule_of_wrong_settings_is_an_error(comfy_server: ComfyServer, wrong: dict):
    assert list(schedule(comfy_server, **wrong)) == ["error"]


def cpu_seconds(server: ComfyServer) -> float:
    """Returns what a server has computed so far, however busy the machine is."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="time is read from /proc")
def test_a_large_workflow_is_looked_at_in_one_pass(comfy_server: ComfyServer):
    """Many nodes at the end of a long chain do not go along it each."""
    options = {"upscale_method": "area", "scale_by": 1.0}
    chain = {
        str(n): node("LatentUpscaleBy", samples=(str(n - 1), 0), **options) for n in range(4000)
    }
    last = {"samples": ("3999", 0), "tiling": "auto"}
    ends = {f"end{n}": node("WanDuetVAEDecode", vae=("vae", 0), **last) for n in range(2000)}
    before = cpu_seconds(comfy_server)
    found = comfy_server.post("/wanduet/check", {"prompt": {**chain, **ends}})
    assert {problem["input"] for problem in found["problems"]} == {"vae"}
    found = comfy_server.post("/wanduet/check", {"prompt": {**chain, **ends, **vae()}})
    assert found["problems"] == []
    assert cpu_seconds(comfy_server) - before < 10


def test_what_is_no_workflow_is_answered_too(comfy_server: ComfyServer):
    for body in (b"{", b"5", b"[]", b'{"prompt": ' + b"[" * 100_000, b'{"prompt": {"a": 5}}'):
        assert list(json.loads(comfy_server.request("/wanduet/check", body))) == ["error"]


def told_to_the_editor(server: ComfyServer, nodes: Prompt) -> dict[str, str]:
    """Queues what is refused, and returns the sentences that the editor shows, by input."""
    socket = create_connection(f"ws://{server.address}/ws?clientId=told", timeout=300)
    try:
        with pytest.raises(PromptRejected):
            server.queue(nodes, "told")
        while (message := json.loads(socket.recv()))["type"] != "wanduet.refused":
            pass
    finally:
        socket.close()
    return {problem["input"]: problem["message"] for problem in message["data"]["problems"]}


def test_a_file_that_is_missing_is_told_alike_at_every_loader(comfy_server: ComfyServer):
    """Also where ComfyUI itself finds it, whose words would list every file that there is."""
    links = {"model_high": ("experts", 0), "model_low": ("experts", 1)}
    row = {"lora_low": "auto", "strength_high": 1.0, "strength_low": 1.0, "on": True}
    nodes = {
        **experts(("gone_high.safetensors", "gone_low.safetensors")),
        "loras": node("WanDuetLoraPair", **links, **row, lora_high="gone.safetensors"),
        "vae": node("WanDuetVAELoader", vae_name="gone.safetensors", precision="auto"),
        "end": node("PreviewAny", source=("loras", 0)),
        "other": node("PreviewAny", source=("vae", 0)),
    }
    told = told_to_the_editor(comfy_server, nodes)
    assert told.keys() == {"high_noise_model", "low_noise_model", "lora_high", "vae_name"}
    assert all("was not found. Got a name that is not in models/" in told[name] for name in told)


def test_a_long_value_is_not_repeated_whole_to_the_editor(comfy_server: ComfyServer):
    nodes = {
        **moe_sampler(seed=1, shift="x" * 100_000),
        **memory(blocks_to_swap="y" * 100_000),
        "end": node("PreviewAny", source=("memory", 0)),
    }
    sentences = told_to_the_editor(comfy_server, nodes).values()
    assert sentences
    assert max(map(len, sentences)) < 1100
