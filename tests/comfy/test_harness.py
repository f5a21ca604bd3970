"""The harness itself: a stock workflow runs; refusals, errors, interrupts reach the client."""

import socket
import sys

import pytest
from safetensors.torch import load_file

from .client import ComfyClient, Message, PromptRejected, RunResult
from .server import ComfyServer, free_ports

pytestmark = pytest.mark.comfy

SIZE = {"width": 64, "height": 64, "length": 5, "batch_size": 1}


def stock_prompt(steps: int, name: str, *, model: str = "toy4096_t2v_high_noise") -> dict:
    """Core nodes only: loader, sampler, VAE."""
    return {
        "model": {
            "class_type": "UNETLoader",
            "inputs": {"unet_name": f"{model}.safetensors", "weight_dtype": "default"},
        },
        "vae": {"class_type": "VAELoader", "inputs": {"vae_name": "toy_wan_2.1_vae.safetensors"}},
        "text": {
            "class_type": "WanDuetTestConditioning",
            "inputs": {"seed": 1, "tokens": 7, "text_dim": 4096},
        },
        "latent": {"class_type": "EmptyHunyuanLatentVideo", "inputs": SIZE},
        "sampler": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["model", 0],
                "positive": ["text", 0],
                "negative": ["text", 0],
                "latent_image": ["latent", 0],
                "seed": 0,
                "steps": steps,
                "cfg": 1.0,
                "sampler_name": "euler",
                "scheduler": "simple",
                "denoise": 1.0,
            },
        },
        "decode": {
            "class_type": "VAEDecode",
            "inputs": {"samples": ["sampler", 0], "vae": ["vae", 0]},
        },
        "save": {
            "class_type": "WanDuetTestSaveTensors",
            "inputs": {"name": name, "latent": ["sampler", 0], "image": ["decode", 0]},
        },
    }


def test_stock_workflow_runs_with_progress_and_previews(comfy_server: ComfyServer):
    result = comfy_server.run(stock_prompt(3, "stock"))

    assert result.status == "success", result.error
    assert result.progress("sampler") == [(1, 3), (2, 3), (3, 3)]
    assert {preview.node_id for preview in result.previews} == {"sampler"}
    saved = load_file(comfy_server.output / "stock.safetensors")
    assert saved["samples"].shape == (1, 16, 2, 8, 8)
    assert saved["image"].shape == (5, 64, 64, 3)
    assert saved["samples"].isfinite().all()


def test_wrong_widget_is_refused_with_the_nodes_name(comfy_server: ComfyServer):
    with pytest.raises(PromptRejected) as refusal:
        comfy_server.queue(stock_prompt(3, "refused", model="no such file"))

    assert refusal.value.status == 400
    errors = refusal.value.node_errors["model"]["errors"]
    assert errors[0]["type"] == "value_not_in_list"


def test_error_while_running_is_reported(comfy_server: ComfyServer):
    prompt = stock_prompt(1, "wrong")
    prompt["text"]["inputs"]["text_dim"] = 64
    result = comfy_server.run(prompt)

    assert result.status == "error"
    assert result.error is not None
    assert result.error["node_id"] == "sampler"


def test_interrupted_prompt_ends_early_and_runs_again(comfy_server: ComfyServer):
    def interrupt(message: Message) -> None:
        if message.type == "progress":
            comfy_server.interrupt()

    endless = stock_prompt(10_000, "interrupted")
    assert comfy_server.run(endless, on_message=interrupt).status == "interrupted"
    assert comfy_server.run(stock_prompt(2, "after")).status == "success"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Elsewhere it would be taken.")
def test_a_port_waits_for_its_server():
    with free_ports(2) as first:
        for port in (first, first + 1):
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", port))
            socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize("broken", [0, 1])
def test_freeing_tells_of_a_prompt_that_fails(monkeypatch: pytest.MonkeyPatch, broken: int):
    statuses = ["success", "success"]
    statuses[broken] = "error"
    left = iter(statuses)
    client = ComfyClient("nowhere")
    monkeypatch.setattr(client, "post", lambda *_: None)
    monkeypatch.setattr(client, "run", lambda _: RunResult("", next(left), {}, [], []))
    with pytest.raises(RuntimeError, match="Got error"):
        client.free()


def test_a_node_that_counts_passes_begins_anew_with_each_prompt(comfy_server: ComfyServer):
    for seed in range(2):
        prompt = stock_prompt(1, "counted")
        options = {"model": ["model", 0], "name": "none", "free": 1, "seconds": 0.0}
        prompt["waits"] = {"class_type": "WanDuetTestWaitForFile", "inputs": options}
        prompt["sampler"]["inputs"] |= {"model": ["waits", 0], "seed": seed}
        assert "waits" in comfy_server.run(prompt).executed


def test_ports_in_a_row_do_not_end_behind_the_last(monkeypatch: pytest.MonkeyPatch):
    told = iter([65535])

    class Last(socket.socket):
        def getsockname(self):
            own = super().getsockname()
            return (own[0], next(told, own[1]))

    monkeypatch.setattr(socket, "socket", Last)
    with free_ports(2) as first:
        assert first < 65535
    assert next(told, None) is None
