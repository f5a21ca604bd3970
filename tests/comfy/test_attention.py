"""The attention kernel that a loader is asked for."""

import pytest
import torch

from .devices import cpu_only
from .graphs import (
    T2V,
    Prompt,
    experts,
    image_to_video,
    memory,
    model,
    moe_sampler,
    node,
    random_text,
    save,
    vae,
)
from .server import ComfyServer
from .stock import T2V_HIGH, empty_latent, ksampler, latent

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


@cpu_only
def test_what_auto_means_is_shown(comfy_server: ComfyServer):
    result = comfy_server.run(one_step("auto"))
    assert result.status == "success", result.error
    (text,) = result.texts("experts")
    assert text.splitlines()[-1] == "attention: sdpa"


@cpu_only
@pytest.mark.parametrize("attention", ["flash_attn_3", "kitchen_int8"])
def test_a_kernel_that_cannot_run_here_is_refused_by_the_loader(comfy_server, attention):
    result = comfy_server.run(one_step(attention))
    assert result.status == "error"
    assert result.error["node_id"] == "experts"
    message = result.error["exception_message"]
    assert f"Got '{attention}'" in message
    assert "need one of: auto, sdpa" in message


LINKS = {"positive": ("positive", 0), "negative": ("negative", 0), "latent_image": ("latent", 0)}
CALLS_PER_PASS = 2
"""Two blocks attend to the video; attention to the text is not for low precision."""
VIDEO = empty_latent(512, 512, 1)
"""As many tokens as low precision is for."""
FALLBACK = "broken gave values that are not finite; sdpa is used instead."


def broken(source: tuple[str, int], name: str, first_broken: int = 0) -> Prompt:
    """A MODEL whose attention gives NaN, from some call on."""
    inputs = {"model": source, "name": name, "first_broken": first_broken}
    return {name: node("WanDuetTestBrokenAttention", **inputs)}


def calls(server: ComfyServer, name: str) -> int:
    """Returns how often that attention was called so far."""
    path = server.output / f"{name}.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def texts_of(server: ComfyServer, prompt: Prompt, node_id: str) -> list[str]:
    """Runs a prompt whose sampler is `node_id`, and saves what it gives under that name."""
    result = server.run(prompt | save(node_id, latent=(node_id, 0)))
    assert result.status == "success", result.error
    return result.texts(node_id)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_broken_attention_is_replaced_in_the_first_pass_of_a_stock_sampler(comfy_server, cfg):
    name = f"broken_{cfg:g}"
    prompt = {**random_text(), **VIDEO, **model(T2V_HIGH)}
    prompt |= broken(("model", 0), name)
    sampler, plain = f"mended_{cfg:g}", f"exact_{cfg:g}"
    assert texts_of(comfy_server, prompt | ksampler((name, 0), sampler, cfg=cfg), sampler) == [
        FALLBACK
    ]
    assert comfy_server.log().count(FALLBACK)
    assert calls(comfy_server, name) == CALLS_PER_PASS
    assert not texts_of(comfy_server, prompt | ksampler(("model", 0), plain, cfg=cfg), plain)
    assert torch.equal(latent(comfy_server, sampler), latent(comfy_server, plain))
    # The next run finds it replaced.
    again = prompt | ksampler((name, 0), sampler, cfg=cfg, seed=8)
    assert not texts_of(comfy_server, again, sampler)
    assert calls(comfy_server, name) == CALLS_PER_PASS
    assert latent(comfy_server, sampler).isfinite().all()


def test_every_run_is_checked(comfy_server):
    prompt = {**random_text(), **VIDEO, **model(T2V_HIGH)}
    prompt |= broken(("model", 0), "late", first_broken=3 * CALLS_PER_PASS)
    first = prompt | ksampler(("late", 0), "first", steps=3)
    assert not texts_of(comfy_server, first, "first")
    second = prompt | ksampler(("late", 0), "second", steps=3, seed=8)
    assert texts_of(comfy_server, second, "second") == [FALLBACK]
    assert calls(comfy_server, "late") == 4 * CALLS_PER_PASS
    assert latent(comfy_server, "second").isfinite().all()


@pytest.mark.parametrize("streamed", [False, True])
def test_each_expert_is_checked(comfy_server, streamed):
    prompt = {**random_text(64, 20), **VIDEO, **experts()}
    if streamed:
        prompt |= {**memory(blocks_to_swap=2), **experts(memory=("memory", 0))}
    name = f"low_{streamed}"
    prompt |= broken(("experts", 1), name)
    links = {"model_low": (name, 0), **LINKS}
    texts = texts_of(comfy_server, prompt | moe_sampler("pair", shift=8.0, **links), "pair")
    assert texts.count(FALLBACK) == 1
    assert calls(comfy_server, name) == CALLS_PER_PASS
    texts_of(comfy_server, prompt | moe_sampler("exact_pair", shift=8.0, **LINKS), "exact_pair")
    assert torch.equal(latent(comfy_server, "pair"), latent(comfy_server, "exact_pair"))
