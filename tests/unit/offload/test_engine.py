"""The engine against resident execution, bit for bit, on a device whose copies run late."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.unit.dit.toy import BF16, make_dit, make_inputs
from tests.unit.offload.fakes import LazyDevice, forward, plan_for
from wan_model.dit import WanDiT, run_in_order
from wan_model.offload import HostModel, OffloadEngine, PlainDevice
from wan_model.offload.plan import RING_BYTES
from wan_model.quant import SCALED, Linear

BLOCKS = 7


@pytest.fixture(scope="module")
def dit() -> WanDiT:
    """bf16 blocks, half of their linears fp8 with scales, as in the files people use."""
    model = make_dit(precision=BF16, num_layers=BLOCKS, dim=24, ffn_dim=32)
    for index, block in enumerate(model.blocks):
        for layer in [m for m in block.modules() if isinstance(m, Linear)]:
            dtype = torch.float8_e4m3fn if index % 2 else torch.bfloat16
            if index % 2:
                layer.format, layer.weight_scale = SCALED[dtype], torch.tensor(0.5 + index)
            layer.weight = nn.Parameter(layer.weight.to(dtype), requires_grad=False)
    return model


@pytest.fixture(scope="module")
def host(dit: WanDiT) -> HostModel:
    return HostModel(dit, dit.blocks)


@pytest.fixture(scope="module")
def expected(dit: WanDiT) -> Tensor:
    return dit(*make_inputs(dit))


LIMITS = st.fixed_dictionaries(
    {
        "blocks_to_swap": st.integers(0, BLOCKS),
        "prefetch_blocks": st.none() | st.integers(0, 4),
        "pinned_ram_bytes": st.just(0) | st.integers(RING_BYTES, RING_BYTES + 100_000),
    }
)


@settings(max_examples=25)
@given(limits=LIMITS, ring_bytes=st.sampled_from([0, 4000, 100_000]))
def test_any_plan_gives_the_same_bits_in_the_right_order(dit, host, expected, limits, ring_bytes):
    device = LazyDevice()
    plan = plan_for(host, ring_bytes=ring_bytes, **limits)
    engine = OffloadEngine([host], plan, device)
    for _ in range(3):
        assert torch.equal(forward(engine, device, dit, make_inputs(dit)), expected)
    assert device.check_order() == 3 * (BLOCKS + 2)
    assert device.live_bytes == engine.device_bytes == plan.weight_bytes


def test_a_plain_device_gives_the_same_bits(dit, host, expected):
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=4), PlainDevice("cpu"))
    for _ in range(2):
        assert torch.equal(engine.run(0, lambda r: dit.velocity(*make_inputs(dit), r)), expected)


def test_only_streamed_blocks_travel_again(dit, host):
    device = LazyDevice()
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=3, ring_bytes=1 << 22), device)
    counts = []
    for _ in range(3):
        before = sum(event.kind == "copy" for event in device.log)
        forward(engine, device, dit, make_inputs(dit))
        engine._traffic._feeder.drain()
        counts.append(sum(event.kind == "copy" for event in device.log) - before)
    # The first pass fetches everything, and the streamed blocks of the next one.
    assert counts == [1 + BLOCKS + 3, 3, 3]


def test_the_first_blocks_of_the_next_pass_travel_before_it(dit, host):
    device = LazyDevice()
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=BLOCKS), device)
    forward(engine, device, dit, make_inputs(dit))
    engine._traffic._feeder.drain()
    before = len(device.log)
    forward(engine, device, dit, make_inputs(dit))
    first_wait = next(e.mark for e in device.log[before:] if e.kind == "wait")
    assert any(e.kind == "copy" and e.mark is first_wait for e in device.log[:before])


def test_the_module_has_its_own_tensors_between_passes(dit, host):
    before = {name: tensor.data_ptr() for name, tensor in dit.state_dict().items()}
    device = LazyDevice()
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=3), device)
    seen = []

    def spy(blocks: Iterable[nn.Module], x: Tensor, inputs: Any) -> Tensor:
        for block in blocks:
            seen.append(block.modulation.data_ptr())
            assert list(dit.state_dict()) == list(before)
            x = block(x, inputs)
        return x

    engine.run(0, lambda run: dit.velocity(*make_inputs(dit), run), spy)
    assert not set(seen) & set(before.values())
    assert {name: tensor.data_ptr() for name, tensor in dit.state_dict().items()} == before


class InterruptError(Exception):
    """Somebody pressed a button."""


@dataclass
class StopAt:
    """Raises at one block, before or after it ran."""

    block: int
    after: bool

    def __call__(self, blocks: Iterable[nn.Module], x: Tensor, inputs: Any) -> Tensor:
        for number, block in enumerate(blocks):
            if number == self.block and not self.after:
                raise InterruptError
            x = block(x, inputs)
            if number == self.block:
                raise InterruptError
        return x


@pytest.mark.parametrize(
    ("swap", "block", "after"),
    [
        *((4, block, False) for block in range(BLOCKS)),
        *((4, block, True) for block in (0, BLOCKS // 2, BLOCKS - 1)),
        *((0, 3, False), (1, 3, True), (BLOCKS, 0, False), (BLOCKS, BLOCKS - 1, True)),
    ],
)
def test_an_interrupt_at_any_block_leaves_a_usable_engine(dit, host, expected, swap, block, after):
    own = {name: tensor.data_ptr() for name, tensor in dit.state_dict().items()}
    device = LazyDevice()
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=swap), device)
    for _ in range(2):
        with pytest.raises(InterruptError):
            engine.run(0, lambda r: dit.velocity(*make_inputs(dit), r), StopAt(block, after))
        assert {name: tensor.data_ptr() for name, tensor in dit.state_dict().items()} == own
        assert torch.equal(forward(engine, device, dit, make_inputs(dit)), expected)
    device.check_order()
    assert device.live_bytes == engine.plan.weight_bytes


def test_an_exception_outside_the_blocks_leaves_a_usable_engine(dit, host, expected):
    device = LazyDevice()
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=4), device)

    def broken(run: Any) -> Tensor:
        dit.velocity(*make_inputs(dit), run)
        raise InterruptError

    with pytest.raises(InterruptError):
        engine.run(0, broken)
    assert torch.equal(forward(engine, device, dit, make_inputs(dit)), expected)
    device.check_order()


def test_blocks_that_another_node_replaces_are_skipped(dit, host, expected):
    device = LazyDevice()
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=4), device)

    def every_second(blocks: Iterable[nn.Module], x: Tensor, inputs: Any) -> Tensor:
        return run_in_order((b for i, b in enumerate(blocks) if i % 2), x, inputs)

    some = dit.velocity(*make_inputs(dit), lambda b, x, i: run_in_order(list(b)[1::2], x, i))
    got = engine.run(0, lambda run: dit.velocity(*make_inputs(dit), run), every_second)
    assert torch.equal(got, some)
    assert torch.equal(forward(engine, device, dit, make_inputs(dit)), expected)


def test_two_samples_one_after_the_other_in_one_pass(dit, host, expected):
    device = LazyDevice()
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=4), device)
    inputs = make_inputs(dit)
    for _ in range(2):
        outputs = engine.run(0, lambda run: [dit.velocity(*inputs, run) for _ in range(2)])
        assert all(torch.equal(output, expected) for output in outputs)


def test_patches_are_applied_once_per_arrival(dit, host):
    calls: list[int | None] = []

    def on_arrival(_: int, block: int | None, module: nn.Module) -> None:
        calls.append(block)
        if block is not None:
            module.get_parameter("norm3.bias").add_(0.25)

    device = LazyDevice()
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=3), device, on_arrival)
    outputs = [forward(engine, device, dit, make_inputs(dit)) for _ in range(2)]
    resident = engine.plan.resident
    assert sorted(calls, key=str).count(None) == 1
    assert all(calls.count(b) == (1 if b in resident else 2) for b in range(BLOCKS))
    patched = make_dit(precision=BF16, num_layers=BLOCKS, dim=24, ffn_dim=32)
    patched.load_state_dict(dit.state_dict(), strict=False, assign=True)
    for mine, theirs in zip(patched.modules(), dit.modules(), strict=True):
        if isinstance(mine, Linear):
            mine.format, mine.weight_scale = theirs.format, theirs.weight_scale
    for block in patched.blocks:
        bias = block.get_parameter("norm3.bias") + 0.25
        block.norm3.bias = nn.Parameter(bias, requires_grad=False)
    expected = patched(*make_inputs(dit))
    assert all(torch.equal(output, expected) for output in outputs)


def test_changed_patches_fetch_the_weights_anew(dit, host, expected):
    strength = [1.0]

    def on_arrival(_: int, block: int | None, module: nn.Module) -> None:
        if block is not None:
            module.get_parameter("norm3.bias").add_(strength[0])

    device = LazyDevice()
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=3), device, on_arrival)
    assert not torch.equal(forward(engine, device, dit, make_inputs(dit)), expected)
    strength[0] = 0
    engine.refresh(0)
    assert torch.equal(forward(engine, device, dit, make_inputs(dit)), expected)


def test_a_patch_that_fails_leaves_no_half_patched_block(dit, host, expected):
    fail = [True]

    def on_arrival(_: int, block: int | None, module: nn.Module) -> None:
        if block == 2 and fail[0]:
            module.get_parameter("norm3.bias").add_(1)
            raise InterruptError

    device = LazyDevice()
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=3), device, on_arrival)
    with pytest.raises(InterruptError):
        forward(engine, device, dit, make_inputs(dit))
    fail[0] = False
    assert torch.equal(forward(engine, device, dit, make_inputs(dit)), expected)


def test_blocks_in_the_place_of_the_models_own_are_run(dit, host):
    """As `torch.compile` leaves them: wrappers around the modules that own the weights."""

    class Half(nn.Module):
        def __init__(self, block: nn.Module) -> None:
            super().__init__()
            self.block = block

        def forward(self, x: Tensor, inputs: Any) -> Tensor:
            return self.block(x, inputs) * 0.5

    wrappers = [Half(block) for block in dit.blocks]
    expected = dit.velocity(*make_inputs(dit), lambda _, x, i: run_in_order(wrappers, x, i))
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=4), LazyDevice())
    got = engine.run(
        0, lambda r: dit.velocity(*make_inputs(dit), lambda _, x, i: r(wrappers, x, i))
    )
    assert torch.equal(got, expected)
