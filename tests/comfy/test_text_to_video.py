"""Text to video through our nodes."""

import pytest
import torch
from safetensors.torch import load_file

from .graphs import experts, image_to_video, moe_sampler, node, prompts, save, vae
from .server import ComfyServer

pytestmark = pytest.mark.comfy


def test_prompt_to_frames(comfy_server: ComfyServer):
    prompt = {
        **experts(),
        **vae(),
        **prompts(),
        **image_to_video(),
        **moe_sampler(),
        "decode": node("WanDuetVAEDecode", vae=("vae", 0), samples=("sampler", 0), tiling="auto"),
        **save("t2v", latent=("sampler", 0), image=("decode", 0)),
    }
    result = comfy_server.run(prompt)

    assert result.status == "success", result.error
    saved = load_file(comfy_server.output / "t2v.safetensors")
    assert saved["samples"].shape == (1, 16, 2, 6, 8)
    assert saved["image"].shape == (5, 48, 64, 3)
    assert torch.isfinite(saved["image"]).all()
    assert 0 <= saved["image"].min() < saved["image"].max() <= 1
    assert result.progress("sampler") == [(1, 4), (2, 4), (3, 4), (4, 4)]
