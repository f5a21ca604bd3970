"""Two experts that share buffers, ring and budget."""

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from tests.unit.dit.toy import make_dit, make_inputs
from tests.unit.offload.fakes import LazyDevice, forward, plan_for
from wan_model.dit import WanDiT
from wan_model.offload import HostModel, OffloadEngine, Plan
from wan_model.offload.plan import resident_blocks

BLOCKS = 5


class Pair(NamedTuple):
    dits: tuple[WanDiT, WanDiT]
    hosts: tuple[HostModel, HostModel]
    expected: tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def pair() -> Pair:
    high, low = (make_dit(num_layers=BLOCKS, dim=24, ffn_dim=32) for _ in range(2))
    for part in low.modules():
        for name, tensor in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(tensor * 0.75, requires_grad=False))
    return Pair(
        dits=(high, low),
        hosts=(HostModel(high, high.blocks), HostModel(low, low.blocks)),
        expected=(high(*make_inputs(high)), low(*make_inputs(low))),
    )


def make(pair: Pair, resident: int, kept: int, slots: int, outsides: int) -> Plan:
    return replace(
        plan_for(pair.hosts[0], experts=2),
        resident=resident_blocks(resident, BLOCKS),
        kept=tuple(range(kept)),
        slots=slots,
        outsides=outsides,
    )


PLANS = [(0, 0, 2, 1), (0, 0, 1, 2), (2, 0, 3, 1), (3, 0, 1, 2), (5, 0, 0, 1), (5, 2, 0, 2)]
PLANS += [(5, 5, 0, 2)]


def run(pair: Pair, engine: OffloadEngine, device: LazyDevice, model: int) -> None:
    got = forward(engine, device, pair.dits[model], make_inputs(pair.dits[model]), model)
    assert torch.equal(got, pair.expected[model])


@pytest.mark.parametrize("counts", PLANS)
def test_any_order_of_experts_gives_the_same_bits(pair, counts):
    """Both ways without a word, and both ways announced."""
    device, plan = LazyDevice(), make(pair, *counts)
    engine = OffloadEngine(pair.hosts, plan, device)
    order = [0, 0, 1, 1, 0, 1, 0, 0]
    for number, model in enumerate(order):
        if number in (4, 5):
            engine.prefetch(order[number + 1])
        run(pair, engine, device, model)
    assert device.check_order() == len(order) * (BLOCKS + 2)
    assert device.live_bytes == engine.device_bytes == plan.weight_bytes


@pytest.mark.parametrize("counts", PLANS)
def test_a_wrong_announcement_does_no_harm(pair, counts):
    device = LazyDevice()
    engine = OffloadEngine(pair.hosts, make(pair, *counts), device)
    for model in (0, 0, 1):
        engine.prefetch(1 - model)
        run(pair, engine, device, model)
        run(pair, engine, device, model)
    device.check_order()


@pytest.mark.parametrize("counts", PLANS)
def test_the_next_expert_travels_during_the_last_step_of_this_one(pair, counts):
    device = LazyDevice()
    engine = OffloadEngine(pair.hosts, make(pair, *counts), device)
    engine.prefetch(1, after=2)
    run(pair, engine, device, 0)
    run(pair, engine, device, 0)
    engine._traffic._feeder.drain()
    before = len(device.log)
    run(pair, engine, device, 1)
    waits = [event.mark for event in device.log[before:] if event.kind == "wait"]
    ready = {event.mark for event in device.log[:before] if event.kind == "copy"}
    # With room for one only, what lies outside the blocks comes at the switch.
    blocks = waits if engine.plan.outsides == 2 else waits[1:]
    there = [mark in ready for mark in blocks]
    expected = max(1, engine.plan.buffers) if engine.plan.streamed else BLOCKS
    assert all(there[:expected])


def test_both_experts_stay_where_there_is_room(pair):
    device = LazyDevice()
    engine = OffloadEngine(pair.hosts, make(pair, BLOCKS, BLOCKS, 0, 2), device)
    for model in (0, 1):
        run(pair, engine, device, model)
    before = len(device.log)
    for model in (0, 0, 1, 1, 0):
        run(pair, engine, device, model)
    assert not [event for event in device.log[before:] if event.kind == "copy"]


def test_a_waiting_expert_keeps_its_part(pair):
    device = LazyDevice()
    engine = OffloadEngine(pair.hosts, make(pair, BLOCKS, 2, 0, 2), device)
    run(pair, engine, device, 0)
    run(pair, engine, device, 1)
    assert set(engine._traffic._pool.held) == {(1, b) for b in range(BLOCKS)} | {(0, 0), (0, 1)}


def test_now_is_the_time_to_fetch(pair):
    device = LazyDevice()
    engine = OffloadEngine(pair.hosts, make(pair, 2, 0, 2, 1), device)
    engine.prefetch(1, after=0)
    engine._traffic._feeder.drain()
    assert engine.device_bytes == engine.plan.weight_bytes
    assert any(event.kind == "copy" for event in device.log)
    run(pair, engine, device, 1)
    device.check_order()
