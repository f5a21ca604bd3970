"""The moving preview while sampling: all latent frames, from any sampler, gone at the end."""

import base64
import io
from typing import Any

import pytest
from PIL import Image

from .client import Message, RunResult
from .graphs import T2V, TI2V, Prompt, experts, model, moe_sampler, node, random_text, save
from .server import ComfyServer
from .stock import empty_latent
from .test_preview_vae import write_preview

pytestmark = pytest.mark.comfy

LINKS = {"positive": ("positive", 0), "negative": ("negative", 0), "latent_image": ("latent", 0)}
HANGS = 300.0
"""Seconds that no preview takes, however busy the machine is."""


def t2v(seed: int, **options: Any) -> Prompt:
    prompt = {**experts(T2V), **random_text(64, 20), **empty_latent(64, 48, 17)}
    prompt |= moe_sampler(**{**LINKS, "seed": seed, **options})
    return prompt | save("moving", latent=("sampler", 0))


def videos(result: RunResult) -> list[dict[str, Any]]:
    return [message.data for message in result.messages if message.type == "wanduet.preview"]


def run_until_shown(server: ComfyServer, prompt: Prompt, **free: int) -> RunResult:
    """Runs a prompt that has not ended before its first preview.

    Args:
        server: who runs it.
        prompt: with one sampler.
        free: passes that do not wait, by the model's socket.
    """
    name = f"shown_{prompt['sampler']['inputs']['seed']}"
    (server.output / f"{name}.go").unlink(missing_ok=True)
    for socket, passes in free.items():
        options = {"name": name, "free": passes, "seconds": HANGS}
        link = tuple(prompt["sampler"]["inputs"][socket])
        prompt[f"{socket}_waits"] = node("WanDuetTestWaitForFile", model=link, **options)
        prompt["sampler"]["inputs"][socket] = [f"{socket}_waits", 0]

    def look(message: Message) -> None:
        if message.type == "wanduet.preview" and "image" in message.data:
            (server.output / f"{name}.go").touch()

    return server.run(prompt, on_message=look, as_editor=True)


def of_run(result: RunResult) -> dict[str, Any]:
    return {"prompt_id": result.prompt_id, "workflow": None}


def test_all_latent_frames_move_and_go(comfy_server: ComfyServer):
    result = run_until_shown(comfy_server, t2v(100), model_high=1, model_low=0)

    assert result.status == "success", result.error
    *shown, last = videos(result)
    assert last == {"node": "sampler", "done": True, **of_run(result)}
    assert 1 <= len(shown) <= 4
    kind, data = shown[0]["image"].split(",")
    assert kind == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert (image.n_frames, image.size) == (5, (8, 6))
        assert image.info["loop"] == 0
    assert (shown[0]["width"], shown[0]["height"]) == (8, 6)
    assert result.previews == [], "no still of ComfyUI beside it"
    # Newer versions of ComfyUI leave out steps that follow one another quickly.
    assert result.progress("sampler")[-1] == (4, 4)


def test_48_channels(comfy_server: ComfyServer):
    prompt = {**model(TI2V), **random_text(64, 20)}
    prompt["latent"] = node(
        "Wan22ImageToVideoLatent", vae=("vae", 0), width=64, height=64, length=9, batch_size=1
    )
    prompt["vae"] = node(
        "WanDuetVAELoader", vae_name="toy_wan2.2_vae.safetensors", precision="fp32"
    )
    prompt |= moe_sampler(**LINKS, model_high=("model", 0), model_low=None, seed=101)
    prompt |= save("moving", latent=("sampler", 0))
    result = run_until_shown(comfy_server, prompt, model_high=1)

    assert result.status == "success", result.error
    assert videos(result)[0]["width"] == 4


def test_a_run_that_fails_leaves_none(comfy_server: ComfyServer):
    prompt = t2v(102, steps=4, shift=12.0)
    prompt["patched"] = node(
        "WanDuetTestInterrupt", model=("experts", 1), name="preview_stop", call=0
    )
    prompt["sampler"]["inputs"]["model_low"] = ["patched", 0]
    result = comfy_server.run(prompt, as_editor=True)

    assert result.status == "interrupted"
    assert videos(result)[-1] == {"node": "sampler", "done": True, **of_run(result)}


def test_other_clients_get_what_comfyui_sends(comfy_server: ComfyServer):
    result = comfy_server.run(t2v(103))

    assert videos(result) == []
    assert len(result.previews) == 4


def test_a_preview_vae_that_is_there_is_used(comfy_server: ComfyServer):
    folder = comfy_server.base / "models" / "vae_approx"
    folder.mkdir(exist_ok=True)
    file = folder / "taew2_1.safetensors"
    write_preview(file)
    prompt = t2v(104, steps=1000)  # it is stopped before them, however long a preview takes
    prompt["eager"] = node("WanDuetTestPreviewAnyTime", model=("experts", 0))
    waits = {"name": "never", "free": 0, "seconds": 0.5}
    prompt["waits"] = node("WanDuetTestWaitForFile", model=("eager", 0), **waits)
    prompt["sampler"]["inputs"]["model_high"] = ["waits", 0]

    def stop(message: Message) -> None:
        if message.type == "wanduet.preview" and message.data.get("width") == 64:
            comfy_server.interrupt()

    try:
        result = comfy_server.run(prompt, on_message=stop, as_editor=True)
    finally:
        file.unlink()

    assert result.status == "interrupted", result.error
    first, *later, _ = videos(result)
    assert (first["width"], first["height"]) == (8, 6), "the first does not wait for the file"
    (shown, *_) = [one for one in later if (one["width"], one["height"]) == (64, 48)]
    with Image.open(io.BytesIO(base64.b64decode(shown["image"].split(",")[1]))) as image:
        assert image.n_frames == 5
