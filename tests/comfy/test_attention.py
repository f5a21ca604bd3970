"""The attention kernel that a loader is asked for."""

import pytest

from .graphs import T2V, Prompt, experts, image_to_video, moe_sampler, random_text, save, vae
from .server import ComfyServer

pytestmark = pytest.mark.comfy


def one_step(attention: str) -> Prompt:
    text = {"positive": ("positive", 0), "negative": ("negative", 0)}
    return {
        **random_text(text_dim=64, tokens=8),
        **experts(T2V, attention=attention),
        **vae(),
        **image_to_video(**text, width=32, height=32),
        **moe_sampler(steps=2),
        **save(f"attention_{attention}", latent=("sampler", 0)),
    }


def test_what_auto_means_is_shown(comfy_server: ComfyServer):
    result = comfy_server.run(one_step("auto"))
    assert result.status == "success", result.error
    (text,) = result.texts("experts")
    assert text.splitlines()[-1] == "attention: sdpa"


@pytest.mark.parametrize("attention", ["flash_attn_3", "kitchen_int8"])
def test_a_kernel_that_cannot_run_here_is_refused_by_the_loader(comfy_server, attention):
    result = comfy_server.run(one_step(attention))
    assert result.status == "error"
    assert result.error["node_id"] == "experts"
    message = result.error["exception_message"]
    assert f"Got '{attention}'" in message
    assert "need one of: auto, sdpa" in message
