"""Tensors that travel with blocks and are not their own: the operands of LoRAs."""

from collections.abc import Iterable
from functools import partial

import pytest
import torch
from torch import Tensor

from tests.unit.dit.toy import make_dit, make_inputs
from tests.unit.offload.fakes import LazyDevice, forward, plan_for
from tests.unit.quant.loras import give_all
from wan_model.dit import WanDiT
from wan_model.offload import Extra, HostModel, OffloadEngine
from wan_model.quant import Linear, LowRank

BLOCKS = 4
Extras = dict[int | None, list[Extra]]


@pytest.fixture(scope="module")
def dit() -> WanDiT:
    return make_dit(num_layers=BLOCKS, dim=24, ffn_dim=32)


@pytest.fixture
def host(dit: WanDiT) -> HostModel:
    return HostModel(dit, dit.blocks)


@pytest.fixture(scope="module")
def bare(dit: WanDiT) -> Tensor:
    return dit(*make_inputs(dit))


def linears(dit: WanDiT, number: int | None) -> Iterable[Linear]:
    parts = dit.blocks[number].modules() if number is not None else [dit.head.head]
    return [part for part in parts if isinstance(part, Linear)]


def loras(dit: WanDiT, rank: int, seed: int = 0) -> Extras:
    """Returns what travels for LoRAs of the blocks and the head."""
    give_all(dit, rank, 0.5, seed)
    extras: Extras = {}
    for number in (None, *range(BLOCKS)):
        for layer in linears(dit, number):
            (adapter,) = layer.adapters
            make = partial(operands, adapter.scale)
            extra = Extra(layer, "adapters", (adapter.a, adapter.b), make)
            extras.setdefault(number, []).append(extra)
    for part in dit.modules():
        if isinstance(part, Linear):
            part.adapters = ()
    return extras


def operands(scale: Tensor, a: Tensor, b: Tensor) -> tuple[LowRank, ...]:
    return (LowRank(a, b, scale),)


def in_place(dit: WanDiT, extras: Extras) -> Tensor:
    """Returns the result with all operands in their layers."""
    owners = [extra for found in extras.values() for extra in found]
    for extra in owners:
        setattr(extra.owner, extra.attribute, extra.make(*extra.tensors))
    try:
        return dit(*make_inputs(dit))
    finally:
        for extra in owners:
            setattr(extra.owner, extra.attribute, ())


@pytest.mark.parametrize("swap", [0, 2, BLOCKS])
def test_they_are_there_while_their_block_runs(dit, host, bare, swap):
    extras = loras(dit, 16)
    expected = in_place(dit, extras)
    host.carry(extras)
    device = LazyDevice()
    plan = plan_for(host, blocks_to_swap=swap)
    engine = OffloadEngine([host], plan, device)
    for _ in range(2):
        assert torch.equal(forward(engine, device, dit, make_inputs(dit)), expected)
    assert device.check_order() == 2 * (BLOCKS + 2)
    assert device.live_bytes == engine.device_bytes == plan.weight_bytes
    assert not torch.allclose(expected, bare, atol=1e-3)
    assert all(layer.adapters == () for number in range(BLOCKS) for layer in linears(dit, number))


@pytest.mark.parametrize(("swap", "pinned"), [(0, 0), (2, 0), (BLOCKS, 0), (2, 1 << 29)])
def test_others_take_their_place(dit, host, bare, swap, pinned):
    """Of the same size, of another one, none: nothing of those before is used again."""
    device = LazyDevice()
    engine = OffloadEngine(
        [host], plan_for(host, blocks_to_swap=swap, pinned_ram_bytes=pinned), device
    )
    inputs = make_inputs(dit)
    assert torch.equal(forward(engine, device, dit, inputs), bare)
    for rank, seed in ((16, 0), (16, 1), (32, 2)):
        extras = loras(dit, rank, seed)
        engine.carry(0, extras)
        for _ in range(2):
            assert torch.equal(forward(engine, device, dit, inputs), in_place(dit, extras))
        assert device.live_bytes == engine.device_bytes
    engine.carry(0, {})
    assert torch.equal(forward(engine, device, dit, inputs), bare)
    assert device.live_bytes == engine.device_bytes == engine.plan.weight_bytes


def test_a_new_strength_needs_no_copy(dit, host):
    extras = loras(dit, 16)
    host.carry(extras)
    device = LazyDevice()
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=0), device)
    inputs = make_inputs(dit)
    forward(engine, device, dit, inputs)
    copies = sum(event.kind == "copy" for event in device.log)
    for found in extras.values():
        for extra in found:
            extra.make(*extra.tensors)[0].scale.mul_(-2)
    assert torch.equal(forward(engine, device, dit, inputs), in_place(dit, extras))
    assert sum(event.kind == "copy" for event in device.log) == copies


def test_what_they_take_is_planned(dit, host):
    alone = host.slab_bytes
    extras = loras(dit, 16)
    host.carry(extras)
    nbytes = sum(tensor.nbytes for extra in extras[0] for tensor in extra.tensors)
    assert nbytes <= host.slab_bytes - alone
    assert host.nbytes - BLOCKS * host.slab_bytes == host.outside.layout.nbytes
