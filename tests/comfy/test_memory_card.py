"""Our MODELs and others on one small card, emulated: whoever needs room gets it, and no more."""

from typing import Any

import pytest
import torch

from wan_model.dit.activation_memory import WORKSPACE_BYTES

from .graphs import T2V, Prompt, memory, model, moe_sampler, node, save, vae
from .server import ComfyServer
from .stock import LORA
from .test_memory_manager import INPUTS, LINKS, lines, pair, run

pytestmark = pytest.mark.comfy

VIDEO_MIB = (WORKSPACE_BYTES >> 20) + 1
"""What one forward pass of the toy models takes beside the weights, rounded up."""

LIMITS = {"prefetch_blocks": 0}
"""Any limit: the engine is not used on a CPU otherwise. This one allows for a single slot."""


def insert(server: ComfyServer, weights_mib: int) -> None:
    """Gives the server a card that holds the video and so many MiB of weights."""
    server.free()
    size = node("WanDuetTestSetCard", nbytes=(VIDEO_MIB + weights_mib) << 20)
    result = server.run({"card": size})
    assert result.status == "success", result.error


def seen(server: ComfyServer, prompt: Prompt, other_mib: int, name: str) -> dict[str, Any]:
    """Samples, then loads another model of some size; returns what ours has left."""
    take = {"model": ("experts", 0), "latent": ("sampler", 0), "nbytes": 0, "name": name}
    if other_mib:
        other = node("WanDuetTestLoadOther", latent=("sampler", 0), mib=other_mib)
        prompt, take = {**prompt, "other": other}, {**take, "latent": ("other", 0)}
    prompt = {**prompt, "take": node("WanDuetTestTakeMemory", **take)}
    result = server.run({**prompt, **save(name, latent=("take", 0))})
    assert result.status == "success", result.error
    return lines(server, name)[-1]


@pytest.mark.parametrize(
    ("weights_mib", "plan", "share"),
    [(6, "2 of 2 blocks streamed", 0.3), (9, "all 2 blocks", 0.5), (64, "all 2 blocks", 1.0)],
)
def test_the_plan_fits_the_card(card: ComfyServer, weights_mib: int, plan: str, share: float):
    insert(card, 64)
    expected = run(card, pair(1, **LIMITS), "expected")
    insert(card, weights_mib)
    state = seen(card, pair(2, **LIMITS), 0, "fits")
    assert state["plan"].startswith(plan)
    assert state["loaded"] <= weights_mib << 20
    assert state["loaded"] / state["size"] == pytest.approx(share, abs=0.1)
    assert torch.equal(run(card, pair(1, **LIMITS), "fitting"), expected)


def test_another_model_gets_its_room_and_no_more(card: ComfyServer):
    insert(card, 64)
    expected = run(card, pair(1, **LIMITS), "expected")
    total = seen(card, pair(2, **LIMITS), 0, "alone")["size"]
    free_mib = VIDEO_MIB + 64 - total // (1 << 20)
    assert seen(card, pair(3, **LIMITS), free_mib // 2, "beside")["loaded"] == total
    # ComfyUI asks for a tenth more.
    some = seen(card, pair(4, **LIMITS), int((free_mib + 5) / 1.1), "tight")
    assert 0 < some["loaded"] < total
    assert some["entries"] == 1
    assert torch.equal(run(card, pair(1, **LIMITS), "after_tight"), expected)
    none = seen(card, pair(5, **LIMITS), VIDEO_MIB + 50, "crowded")
    assert none["loaded"] == none["entries"] == none["pinned"] == 0
    assert torch.equal(run(card, pair(1, **LIMITS), "after_crowded"), expected)
    assert seen(card, pair(6, **LIMITS), 0, "back")["loaded"] == total


@pytest.mark.parametrize("weights_mib", [16, 12])
def test_a_card_that_was_full_is_filled_less_next_time(card: ComfyServer, weights_mib: int):
    """What fits is resident, until a run shows that a pass takes more than was thought.

    On the smaller card not even the smallest plan leaves as much as was learned.
    """
    insert(card, weights_mib)
    assert seen(card, pair(2, **LIMITS), 0, "next")["plan"].startswith("all 2 blocks")
    full = pair(3, **LIMITS)
    full["full"] = node("WanDuetTestOutOfMemory", model=("experts", 0), times=1)
    full["sampler"]["inputs"]["model_high"] = ["full", 0]
    assert seen(card, full, 0, "next")["plan"].startswith("2 of 2 blocks streamed")
    assert seen(card, pair(4, **LIMITS), 0, "next")["plan"].startswith("2 of 2 blocks streamed")
    # Loaded anew, nothing is remembered.
    insert(card, weights_mib)
    assert seen(card, pair(2, **LIMITS), 0, "next")["plan"].startswith("all 2 blocks")


def test_what_a_lora_takes_is_planned(card: ComfyServer):
    insert(card, 64)
    bare = seen(card, pair(2, **LIMITS), 0, "bare")
    prompt = pair(3, **LIMITS)
    lora = {"lora_name": LORA, "strength_model": 1.0}
    prompt["lora"] = node("LoraLoaderModelOnly", model=("experts", 1), **lora)
    prompt["sampler"]["inputs"]["model_low"] = ["lora", 0]
    assert seen(card, prompt, 0, "lora")["peak"] > bare["peak"]
    assert seen(card, pair(4, **LIMITS), 0, "bare")["peak"] == bare["peak"]


@pytest.mark.parametrize("weights_mib", [6, 12, 64])
def test_two_engines_share_a_card(card: ComfyServer, weights_mib: int):
    insert(card, 64)
    expected = run(card, pair(1, **LIMITS), "expected")
    insert(card, weights_mib)
    options = {"memory": ("memory", 0)}
    prompt = {**INPUTS, **memory(**LIMITS)}
    prompt |= {**model(T2V[0], "high", **options), **model(T2V[1], "low", **options)}
    links = {"model_high": ("high", 0), "model_low": ("low", 0), **LINKS}
    prompt |= moe_sampler(shift=8.0, seed=1, **links)
    assert torch.equal(run(card, prompt, "engines"), expected)
    prompt |= moe_sampler(shift=8.0, seed=2, **links)
    run(card, prompt, "engines")


@pytest.mark.parametrize(("reserved_gib", "attempts"), [(0, [None, 256]), (2, [128])])
def test_a_vae_plans_without_what_is_left_to_others(
    card: ComfyServer, reserved_gib: int, attempts: list[int | None]
):
    """Windows raises no error beyond it: it moves memory elsewhere, slowly."""
    card.free()
    name = f"tiles_{reserved_gib}"
    size = node("WanDuetTestSetCard", nbytes=2 << 30, reserved=reserved_gib << 30)
    decode = {"samples": ("latent", 0), "vae": ("short", 0), "tiling": "auto"}
    prompt = {
        **vae(),
        "short": node("WanDuetTestShortOfMemory", vae=("vae", 0), name=name),
        "latent": node("EmptyHunyuanLatentVideo", width=64, height=48, length=5, batch_size=1),
        "decode": node("WanDuetVAEDecode", **decode),
        **save(name, image=("decode", 0)),
    }
    for each in ({"card": size}, prompt):
        result = card.run(each)
        assert result.status == "success", result.error
    assert lines(card, name) == attempts
