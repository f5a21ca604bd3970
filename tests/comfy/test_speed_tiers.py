"""Tiers of speed of the loaders: what they set, what they say, and what is left alone."""

import pytest
import torch

from .devices import cpu_only
from .graphs import T2V, Prompt, experts, memory, moe_sampler, node, random_text, save
from .server import ComfyServer
from .stock import empty_latent, latent

pytestmark = pytest.mark.comfy

LINKS = {"positive": ("positive", 0), "negative": ("negative", 0), "latent_image": ("latent", 0)}
STEPS = 12


def sampled(server: ComfyServer, name: str, loader: Prompt, **options: object):
    """Samples, and returns the latent with what loader and sampler say."""
    prompt = {**random_text(64, 8), **empty_latent(), **memory(), **loader}
    prompt |= moe_sampler(**{**LINKS, "steps": STEPS, "cfg_high": 3.0, "cfg_low": 2.0, **options})
    result = server.run(prompt | save(name, latent=("sampler", 0)))
    assert result.status == "success", result.error
    said = ["\n".join(result.texts(node_id)) for node_id in ("experts", "sampler")]
    report = result.outputs["sampler"]["wanduet_report"][0]["report"]
    return latent(server, name), *said, report


def at(speed: str, **options: object) -> Prompt:
    return experts(T2V, precision="auto", attention="auto", speed=speed, **options)


@cpu_only
def test_a_tier_sets_what_is_left_open_and_says_so(comfy_server: ComfyServer):
    plain, *_ = sampled(comfy_server, "tier_auto", at("auto"))
    exact, loader, sampler, report = sampled(comfy_server, "tier_exact", at("exact"))
    assert torch.equal(exact, plain)
    assert "speed exact: fp32 matmuls, attention as above; every step is computed" in loader
    assert "speed: exact" in sampler
    assert "skipped" not in report
    fast, loader, sampler, report = sampled(
        comfy_server, "tier_fast", at("fastest", memory=("memory", 0))
    )
    assert "attention: sdpa" in loader, "Neither sparse nor 8-bit attention runs on a CPU."
    assert "8 bit" not in loader
    assert "skipped" not in loader
    assert "speed: fastest" in sampler
    assert report.count("skipped") == 2, "once for each expert"
    few, *_, report = sampled(
        comfy_server, "tier_few", at("fast", memory=("memory", 0)), steps=4, cfg_high=1.0
    )
    assert "skipped" not in report
    assert few.isfinite().all()
    assert fast.isfinite().all()


@cpu_only
def test_a_step_cache_behind_it_takes_its_place(comfy_server: ComfyServer):
    own = {"method": "auto", "start_percent": 0.9, "end_percent": 0.91, "threshold": 1e-6}
    caches = {
        kind: node("WanDuetStepCache", model=("experts", number), **own)
        for number, kind in enumerate(("high", "low"))
    }
    models = {"model_high": ("high", 0), "model_low": ("low", 0)}
    *_, report = sampled(comfy_server, "tier_own", {**at("fastest"), **caches}, **models)
    plain, *_ = sampled(comfy_server, "tier_auto", at("auto"))
    assert torch.equal(latent(comfy_server, "tier_own"), plain)
    assert report.count("skipped 0 of") == 2
