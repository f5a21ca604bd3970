"""What plans leave free beside what they take, on cards of every size."""

import re
from dataclasses import replace

import pytest
import torch

from wan_model.config import DiTConfig, Precision
from wan_model.dit.activation_memory import activation_bytes
from wan_model.errors import MemoryLimitError
from wan_model.offload import (
    AllocatorSlack,
    Limits,
    Machine,
    ModelSizes,
    Plan,
    PlanRequest,
    Work,
    make_plan,
)
from wan_model.offload.slack import LEAST_BYTES

GIB, MIB = 1 << 30, 1 << 20
A14B = DiTConfig(
    dim=5120, ffn_dim=13824, num_heads=40, num_layers=40, in_channels=36, out_channels=16
)
SIZES = ModelSizes(blocks=40, block_bytes=336 * MIB, outside_bytes=222 * MIB, experts=2)
TAKEN = 900 * MIB
"""Of a card, by CUDA itself, and left free by ComfyUI on Linux."""

CARDS = (6, 8, 10, 12, 16, 24)
VIDEOS = {"480p": (60, 104), "720p": (90, 160)}
FRAMES = (17, 49, 81, 121)
TOO_LARGE = {(6, "720p", 81), (6, "720p", 121), (8, "720p", 121)}

CUDA = torch.device("cuda")


def request(card_gib: float, activations: int, **limits: int) -> PlanRequest:
    return PlanRequest(
        sizes=SIZES,
        machine=Machine(free_vram_bytes=int(card_gib * GIB) - TAKEN, free_ram_bytes=64 * GIB),
        work=Work(
            activation_bytes=activations,
            block_seconds=0.1,
            slack_bytes=AllocatorSlack(CUDA).of(activations),
        ),
        limits=Limits(**limits),
    )


def video(size: str, frames: int) -> int:
    """Returns the activations of a video, by fused stages."""
    precision = Precision(compute_dtype=torch.bfloat16)
    latent = (frames - 1) // 4 + 1, *VIDEOS[size]
    return activation_bytes(A14B, precision, 1, *latent, stages="fused")


def left(plan: Plan) -> int:
    return plan.request.machine.free_vram_bytes - plan.peak_bytes


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("size", VIDEOS)
@pytest.mark.parametrize("card_gib", CARDS)
def test_every_plan_leaves_its_margin_or_says_what_would_fit(card_gib: int, size: str, frames: int):
    asked = request(card_gib, video(size, frames))
    if (card_gib, size, frames) in TOO_LARGE:
        with pytest.raises(MemoryLimitError) as refused:
            make_plan(asked)
        found = re.search(r"about (\d+) % of its pixels would fit", str(refused.value))
        assert found
        # That size is then planned.
        smaller = asked.work.activation_bytes * int(found[1]) // 100
        assert left(make_plan(request(card_gib, smaller))) >= LEAST_BYTES
        return
    plan = make_plan(asked)
    assert left(plan) >= plan.request.work.slack_bytes >= LEAST_BYTES
    assert left(plan) >= plan.request.work.activation_bytes // 16
    shown = re.search(r"peak ([\d.]+) of ([\d.]+) GiB", str(plan))
    assert shown
    assert float(shown[1]) < float(shown[2])


def test_a_budget_is_used_up_where_more_is_free():
    asked = request(24, 2 * GIB, vram_budget_bytes=8 * GIB)
    plan = make_plan(asked)
    assert 8 * GIB - SIZES.block_bytes < plan.peak_bytes <= 8 * GIB
    larger = replace(asked, limits=Limits(vram_budget_bytes=64 * GIB))
    assert left(make_plan(larger)) >= LEAST_BYTES


def test_swapped_blocks_of_a_person_may_take_the_margin():
    asked = request(8, 2 * GIB)
    room = asked.machine.free_vram_bytes - asked.work.activation_bytes - SIZES.outside_bytes
    count = SIZES.blocks - (room // SIZES.block_bytes - 2)
    plan = make_plan(request(8, 2 * GIB, blocks_to_swap=count, prefetch_blocks=1))
    assert plan.streamed == count
    assert 0 <= left(plan) < SIZES.block_bytes


def test_the_margin_is_named_where_it_is_what_is_missing():
    message = r"Got 3\.12 GiB free, need 3\.\d\d GiB: .* \(2 of 40 blocks\), 0\.25 to be left free"
    with pytest.raises(MemoryLimitError, match=message):
        make_plan(request(4, 2250 * MIB))


def test_what_ran_short_once_is_left_free_at_that_size():
    slack, size = AllocatorSlack(CUDA), 2 * GIB
    before = slack.of(size)
    slack.add(size, 128 * MIB)
    slack.add(size, 64 * MIB)
    assert slack.of(size) == before + 192 * MIB
    assert slack.of(3 * GIB) == slack.expected(3 * GIB)
    assert slack.expected(size) == before


def test_what_large_tensors_find_no_room_in_is_left_free(monkeypatch: pytest.MonkeyPatch):
    scattered = {"inactive_split_bytes.large_pool.current": 700 * MIB}
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda _: scattered)
    slack = AllocatorSlack(CUDA)
    assert slack.of(2 * GIB) == slack.expected(2 * GIB) + 700 * MIB
    assert slack.of(300 * MIB) == slack.expected(300 * MIB) + 300 * MIB, "all that a video needs"


def test_scattered_memory_slows_a_video_down_rather_than_refuse_it(monkeypatch: pytest.MonkeyPatch):
    slack = AllocatorSlack(CUDA)
    before = request(4, GIB)
    scattered = {"inactive_split_bytes.large_pool.current": GIB}
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda _: scattered)
    asked = request(4, GIB)
    with pytest.raises(MemoryLimitError):
        make_plan(asked)
    assert slack.plan(asked).weight_bytes < make_plan(before).weight_bytes
    with pytest.raises(MemoryLimitError):
        slack.plan(request(2, GIB))


def test_other_devices_take_memory_from_the_system():
    slack = AllocatorSlack(torch.device("cpu"))
    assert slack.of(GIB) == slack.shortages == 0
