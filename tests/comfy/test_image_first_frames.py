"""What images become for TI2V-5B: given first latent frames that the sampler keeps."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import wan_model
from wan_model.conditioning import fit_lanczos
from wan_model.shapes import ti2v_size_for_area

from .graphs import (
    TI2V,
    VAE_22,
    Prompt,
    image_to_video,
    model,
    moe_sampler,
    node,
    random_text,
    save,
    vae,
)
from .server import ComfyServer

pytestmark = pytest.mark.comfy

LINKS = {"positive": ("positive", 0), "negative": ("negative", 0), "start_image": ("start", 0)}
KEEP_ASPECT = "keep aspect (official)"


def conditioned(count: int = 1, size: tuple[int, int] = (64, 64), **options: object) -> Prompt:
    """Our node with the 5B VAE and random images of `size`; all is saved."""
    width, height = size
    images = {"seed": 1, "width": width, "height": height, "count": count, "channels": 3}
    return {
        **random_text(text_dim=64, tokens=20),
        **vae(VAE_22),
        "start": node("WanDuetTestImage", **images),
        **image_to_video(**{**LINKS, "height": 64, "length": 9, **options}),
        **save("start", image=("start", 0)),
        **save("first_frames", conditioning=("size", 0), latent=("size", 2)),
    }


def run(server: ComfyServer, prompt: Prompt, name: str = "first_frames") -> dict[str, Tensor]:
    """Runs a prompt that must succeed and returns what it saved."""
    result = server.run(prompt)
    assert result.status == "success", result.error
    return load_file(server.output / f"{name}.safetensors")


def encoded(server: ComfyServer, models: Path, size: tuple[int, int], normalized: bool) -> Tensor:
    """The library's latent of the start images, encoded alone, as the official code fits them."""
    wan_vae = wan_model.load_vae(models / "vae" / VAE_22, dtype=torch.float32)
    images = fit_lanczos(load_file(server.output / "start.safetensors")["image"], *size)
    with torch.inference_mode():
        return wan_vae.encode((images.movedim(-1, 0)[None] - 0.5) / 0.5, normalized=normalized)


def assert_near(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance


@pytest.mark.parametrize(("count", "batch_size"), [(1, 1), (1, 2), (5, 1)])
def test_first_frames_are_encoded_alone(
    comfy_server: ComfyServer, toy_models: Path, count: int, batch_size: int
):
    result = run(comfy_server, conditioned(count, (80, 50), batch_size=batch_size))

    raw = encoded(comfy_server, toy_models, (64, 64), normalized=False)
    known = raw.shape[2]
    assert known == (count + 3) // 4
    samples, mask = result["samples"], result["noise_mask"]
    assert samples.shape == (batch_size, 48, 3, 4, 4)
    assert_near(samples[:, :, :known], raw.expand(batch_size, -1, -1, -1, -1))
    assert (mask[:, :, :known] == 0).all()
    assert (mask[:, :, known:] == 1).all()
    assert mask.shape == (batch_size, 1, 3, 4, 4)
    assert "concat_latent_image" not in result


def test_model_is_given_the_clean_first_frame_at_every_call(
    comfy_server: ComfyServer, toy_models: Path
):
    for old in comfy_server.output.glob("ti2v_[0-9]*.safetensors"):
        old.unlink()
    prompt = {
        **conditioned(),
        **model(TI2V),
        "record": node("WanDuetTestRecordModel", model=("model", 0), name="ti2v"),
        **moe_sampler(model_high=("record", 0), model_low=None, steps=3, cfg_high=2.0),
        **save("ti2v_result", latent=("sampler", 0)),
    }
    result = run(comfy_server, prompt, "ti2v_result")

    known = encoded(comfy_server, toy_models, (64, 64), normalized=True)
    calls = [load_file(f) for f in comfy_server.output.glob("ti2v_[0-9]*.safetensors")]
    assert len(calls) >= 3
    for call in calls:
        rows = call["input"].shape[0]
        assert_near(call["input"][:, :, :1], known.expand(rows, -1, -1, -1, -1))
        assert (call["denoise_mask"][:, :, 0] == 0).all()
        assert (call["denoise_mask"][:, :, 1:] == 1).all()
        assert "c_concat" not in call
    raw = encoded(comfy_server, toy_models, (64, 64), normalized=False)
    assert_near(result["samples"][:, :, :1], raw)


@pytest.mark.parametrize("size", [(1280, 720), (720, 1280), (512, 512), (1216, 832)])
def test_keeping_the_aspect_is_official(
    comfy_server: ComfyServer, toy_models: Path, size: tuple[int, int]
):
    options = {"size_mode": KEEP_ASPECT, "width": 192, "height": 128, "length": 1}
    result = run(comfy_server, conditioned(1, size, **options))

    width, height = ti2v_size_for_area(*size, 192 * 128)
    raw = encoded(comfy_server, toy_models, (width, height), normalized=False)
    assert result["samples"].shape[-2:] == (height // 16, width // 16)
    assert_near(result["samples"], raw)


def test_text_alone_gives_an_empty_latent(comfy_server: ComfyServer):
    prompt = conditioned(batch_size=2)
    del prompt["size"]["inputs"]["start_image"]
    result = run(comfy_server, prompt)

    assert result.keys() == {"samples", "conditioning"}
    assert torch.equal(result["samples"], torch.zeros(2, 48, 3, 4, 4))


def test_images_of_the_exact_size_agree_with_the_stock_node(comfy_server: ComfyServer):
    prompt = conditioned(batch_size=2)
    inputs = prompt["size"]["inputs"]
    stock = {k: inputs[k] for k in ("vae", "width", "height", "length", "batch_size")}
    prompt["stock"] = node("Wan22ImageToVideoLatent", start_image=("start", 0), **stock)
    prompt |= save("stock_first_frames", latent=("stock", 0))
    ours = run(comfy_server, prompt)
    theirs = load_file(comfy_server.output / "stock_first_frames.safetensors")

    assert_near(ours["samples"], theirs["samples"])
    assert torch.equal(ours["noise_mask"], theirs["noise_mask"])
