"""Sizes by name, and lengths in seconds: what the latent has, for both VAEs."""

import pytest
from safetensors.torch import load_file

from .graphs import VAE_21, VAE_22, Prompt, image_to_video, node, random_text, save
from .server import ComfyServer

pytestmark = pytest.mark.comfy

LINKS = {"positive": ("positive", 0), "negative": ("negative", 0)}
FREE = "width x height"

SIZES = [
    # VAE, size, seconds: frames, height and width of the latent, what the node says
    (VAE_21, "480p landscape", 5.0, (21, 60, 104), "832 x 480, 81 frames (5.1 s at 16 fps)"),
    (VAE_21, "480p portrait", 2.0, (9, 104, 60), "480 x 832, 33 frames (2.1 s at 16 fps)"),
    (VAE_21, "480p square", 0.3, (2, 78, 78), "624 x 624, 5 frames (0.3 s at 16 fps)"),
    (VAE_21, "720p landscape", 0.05, (1, 90, 160), "1280 x 720, 1 frames (0.1 s at 16 fps)"),
    (VAE_21, FREE, 0.0, (2, 6, 8), "64 x 48, 5 frames (0.3 s at 16 fps)"),
    (VAE_22, "480p square", 5.0, (31, 40, 40), "640 x 640, 121 frames (5.0 s at 24 fps)"),
    (VAE_22, "720p portrait", 1.0, (7, 80, 44), "704 x 1280, 25 frames (1.0 s at 24 fps)"),
]


def vae(name: str) -> Prompt:
    return {"vae": node("WanDuetVAELoader", vae_name=name, precision="fp32")}


@pytest.mark.parametrize(("file", "size", "seconds", "latent", "said"), SIZES, ids=str)
def test_size_and_seconds(
    comfy_server: ComfyServer,
    file: str,
    size: str,
    seconds: float,
    latent: tuple[int, int, int],
    said: str,
):
    prompt = {
        **random_text(text_dim=64, tokens=8),
        **vae(file),
        **image_to_video(**LINKS, size=size, seconds=seconds),
        **save("sized", latent=("size", 2)),
    }
    result = comfy_server.run(prompt)

    assert result.status == "success", result.error
    assert load_file(comfy_server.output / "sized.safetensors")["samples"].shape[2:] == latent
    assert f"{said}, from text alone" in comfy_server.log()


def test_shape_of_the_image(comfy_server: ComfyServer):
    """480 x 832 pixels as a square; width, height and size_mode do not count."""
    choice = "480p shape of the image"
    prompt = {
        **random_text(text_dim=64, tokens=8),
        **vae(VAE_21),
        "start": node("WanDuetTestImage", seed=1, width=40, height=40, count=1, channels=3),
        **image_to_video(**LINKS, size=choice, length=1, start_image=("start", 0)),
        **save("sized", latent=("size", 2)),
    }
    assert comfy_server.run(prompt).status == "success"
    assert "624 x 624, 1 frames" in comfy_server.log()
