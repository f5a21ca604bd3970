"""Colours of previews, straight from latents."""

from pathlib import Path

import pytest
import torch

from tools.train_tiny import scenes
from wan_model.loading import load_vae
from wan_model.vae.latent_rgb import LatentRgb
from wan_model.vae.tiny_latent_rgb import FACTORS, tiny_latent_rgb

MODELS = Path(__file__).parents[3] / "models" / "vae"
FILES = {16: "wan22-tiny-wan21-vae.safetensors", 48: "wan22-tiny-wan22-vae.safetensors"}


def test_frames_are_bytes_of_every_latent_frame():
    colours = LatentRgb([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]], [0.0, 0.0, -1.0])
    latent = torch.tensor([0.5, 1.0])[:, None, None, None].expand(2, 3, 4, 5)
    frames = colours.frames(latent)

    assert (frames.shape, frames.dtype) == ((3, 4, 5, 3), torch.uint8)
    assert frames[0, 0, 0].tolist() == [191, 255, 0]


def test_only_tiny_files_have_colours_of_their_own():
    assert tiny_latent_rgb("wan2.2_t2v_high_noise_14B_fp8.safetensors", 16) is None
    assert tiny_latent_rgb("wan22-tiny-t2v-high-noise.safetensors", 16) is FACTORS[16]
    assert tiny_latent_rgb("wan22-tiny-ti2v.safetensors", 48) is FACTORS[48]


@pytest.mark.parametrize("channels", [16, 48])
def test_colours_of_wan22_tiny_are_those_of_the_scene(channels: int):
    """A scene that was not fitted; frames as small as the latent's."""
    video = scenes.render([scenes.sample_scene(7, 3)], frames=5)
    vae = load_vae(MODELS / FILES[channels])
    with torch.no_grad():
        latent = vae.encode(video)[0]
    shown = FACTORS[channels].frames(latent).movedim(-1, 1).float() / 127.5 - 1
    frames = torch.stack((video[0, :, 0], video[0, :, 1:].mean(1)))
    scene = torch.nn.functional.adaptive_avg_pool2d(frames, latent.shape[-2:])

    assert (shown - scene).pow(2).mean().sqrt() < 0.6 * scene.std()
