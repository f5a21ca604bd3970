"""Memory: given back when asked, taken again when needed, and what happens when there is none."""

import gc
import mmap
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.dit.toy import make_dit, make_inputs
from tests.unit.offload.fakes import LazyDevice, forward, plan_for
from wan_model.dit import WanDiT
from wan_model.errors import MemoryLimitError
from wan_model.offload import HostModel, OffloadEngine, Work, lowered
from wan_model.offload.device_queues import HostBuffer
from wan_model.offload.plan import RING_BYTES, smallest

BLOCKS = 6


@pytest.fixture(scope="module")
def dit() -> WanDiT:
    return make_dit(num_layers=BLOCKS, dim=24, ffn_dim=32)


@pytest.fixture(scope="module")
def host(dit: WanDiT) -> HostModel:
    return HostModel(dit, dit.blocks)


@pytest.fixture(scope="module")
def expected(dit: WanDiT) -> Tensor:
    return dit(*make_inputs(dit))


def check(engine: OffloadEngine, device: LazyDevice, dit: WanDiT, expected: Tensor) -> None:
    assert torch.equal(forward(engine, device, dit, make_inputs(dit)), expected)
    assert device.live_bytes == engine.device_bytes == engine.plan.weight_bytes
    device.check_order()


def test_vram_goes_back_and_comes_again(dit, host, expected):
    device = LazyDevice()
    plan = plan_for(host, blocks_to_swap=2)
    engine = OffloadEngine([host], plan, device)
    check(engine, device, dit, expected)
    assert engine.shrink(2 * host.slab_bytes) == 2 * host.slab_bytes
    assert device.live_bytes == plan.weight_bytes - 2 * host.slab_bytes
    check(engine, device, dit, expected)
    engine.unload()
    assert device.live_bytes == engine.device_bytes == 0
    engine.apply(plan)
    check(engine, device, dit, expected)
    assert engine.plan.streamed == 2


def test_asking_for_more_than_residency_gives_everything(dit, host, expected):
    device = LazyDevice()
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=2), device)
    check(engine, device, dit, expected)
    taken = engine.device_bytes
    assert engine.shrink(taken) == taken
    assert device.live_bytes == 0
    check(engine, device, dit, expected)


def test_shrinking_every_amount_keeps_the_engine_usable(dit, host, expected):
    for nbytes in range(0, 8 * host.slab_bytes, host.slab_bytes // 2):
        device = LazyDevice()
        engine = OffloadEngine([host], plan_for(host, blocks_to_swap=1), device)
        check(engine, device, dit, expected)
        taken = engine.device_bytes
        freed = engine.shrink(nbytes)
        assert freed >= min(nbytes, taken)
        assert device.live_bytes == taken - freed
        check(engine, device, dit, expected)


def test_pinned_memory_goes_back_and_comes_again(dit, host, expected):
    device = LazyDevice()
    plan = plan_for(host, blocks_to_swap=4, pinned_ram_bytes=RING_BYTES + (1 << 20))
    engine = OffloadEngine([host], plan, device)
    assert sum(len(blocks) for blocks in plan.pinned) == 4
    check(engine, device, dit, expected)
    pinned = engine.pinned_bytes
    assert pinned == device.pinned_bytes == 4 * host.slab_bytes + plan.ring_bytes
    engine.release_pinned()
    assert device.pinned_bytes == engine.pinned_bytes == 0
    # Everything that travels is pinned, so there is no ring this time.
    check(engine, device, dit, expected)
    check(engine, device, dit, expected)
    assert device.pinned_bytes == engine.pinned_bytes == 4 * host.slab_bytes


def test_another_plan_gives_back_what_it_does_not_pin(dit, host, expected):
    device = LazyDevice()
    plan = plan_for(host, blocks_to_swap=4, pinned_ram_bytes=RING_BYTES + (1 << 20))
    engine = OffloadEngine([host], plan, device)
    check(engine, device, dit, expected)
    engine.apply(replace(plan, pinned=(plan.pinned[0][:1],), ring_bytes=2 * plan.ring_bytes))
    assert device.pinned_bytes == engine.pinned_bytes == host.slab_bytes
    check(engine, device, dit, expected)
    assert engine.pinned_bytes == host.slab_bytes + 2 * plan.ring_bytes


def test_the_ring_goes_back_once_everything_is_resident(dit, host, expected):
    device = LazyDevice()
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=0), device)
    check(engine, device, dit, expected)
    check(engine, device, dit, expected)
    assert device.pinned_bytes == engine.pinned_bytes == 0


def test_memory_that_cannot_be_pinned_is_still_used(dit, host, expected):
    device = LazyDevice(pins=False)
    plan = plan_for(host, blocks_to_swap=4, pinned_ram_bytes=RING_BYTES + (1 << 20))
    engine = OffloadEngine([host], plan, device)
    check(engine, device, dit, expected)
    check(engine, device, dit, expected)


def test_too_large_a_plan_is_lowered_once(dit, host, expected):
    plan = plan_for(host, blocks_to_swap=1)
    device = LazyDevice(capacity_bytes=plan.weight_bytes - 1)
    engine = OffloadEngine([host], plan, device)
    check(engine, device, dit, expected)
    assert engine.plan == smallest(plan)
    assert engine.plan.streamed == BLOCKS


def test_passes_that_streaming_would_slow_down_are_lowered_by_a_margin(dit, host, expected):
    slab, small = host.slab_bytes, plan_for(host, blocks_to_swap=1)
    machine = replace(small.request.machine, free_vram_bytes=24 * slab)
    request = replace(
        small.request, machine=machine, work=Work(activation_bytes=0, block_seconds=0)
    )
    plan = replace(small, request=request)
    device = LazyDevice(capacity_bytes=plan.weight_bytes - 1)
    engine = OffloadEngine([host], plan, device)
    assert torch.equal(forward(engine, device, dit, make_inputs(dit)), expected)
    assert slab < plan.margin_bytes < 2 * slab
    assert engine.plan.placement == lowered(plan, plan.margin_bytes).placement
    assert engine.plan.streamed == 3
    check(engine, device, dit, expected)


@pytest.mark.parametrize("failures", [1, 2])
def test_running_out_in_the_middle_of_a_pass(dit, host, expected, failures):
    device = LazyDevice()
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=2), device)
    left = [failures]

    def greedy(run: Any) -> Tensor:
        def runner(blocks: Any, x: Tensor, inputs: Any) -> Tensor:
            x = run(blocks, x, inputs)
            if left[0]:
                left[0] -= 1
                raise torch.OutOfMemoryError("Tried to allocate 2 GiB")
            return x

        return dit.velocity(*make_inputs(dit), runner)

    if failures == 1:
        assert torch.equal(engine.run(0, greedy), expected)
        assert engine.plan.streamed == BLOCKS
        return
    # There is as much as was planned with, so closing other programs comes last.
    message = r"ran out of memory .* Got .* free .* order: make the video shorter .* close other"
    with pytest.raises(MemoryLimitError, match=message):
        engine.run(0, greedy)
    assert device.live_bytes == 0
    assert torch.equal(engine.run(0, greedy), expected)


def test_a_device_that_others_fill_says_so(dit, host):
    plan = plan_for(host, blocks_to_swap=2)
    device = LazyDevice(capacity_bytes=smallest(plan).weight_bytes - 1)
    with pytest.raises(MemoryLimitError, match=r"order: close other .* shorter or smaller\.$"):
        forward(OffloadEngine([host], plan, device), device, dit, make_inputs(dit))
    assert device.live_bytes == 0


def test_full_host_memory_is_a_clear_error():
    with pytest.raises(MemoryLimitError, match=r"Got no room for \d+ MiB"):
        HostBuffer(1 << 60, LazyDevice())


def test_pinned_memory_shares_no_page():
    device, page = LazyDevice(), mmap.PAGESIZE
    buffers = [HostBuffer(nbytes, device) for nbytes in (1, 100, page, page + 1, 3 * page) * 4]
    starts = [buffer.memory.data_ptr() for buffer in buffers]
    assert all(start % page == 0 for start in starts)
    pages = [
        number
        for start, buffer in zip(starts, buffers, strict=True)
        for number in range(start // page, -(-(start + buffer.memory.numel()) // page))
    ]
    assert len(set(pages)) == len(pages)


def test_nothing_stays_of_an_engine_that_is_gone(dit, host):
    device = LazyDevice()
    plan = replace(plan_for(host, blocks_to_swap=3), pinned=((0, 1),))
    engine = OffloadEngine([host], plan, device)
    forward(engine, device, dit, make_inputs(dit))
    assert device.live_bytes
    assert device.pinned_bytes
    engine._traffic._feeder.drain()
    del engine
    gc.collect()
    device.log.clear()
    assert device.live_bytes == device.pinned_bytes == 0
