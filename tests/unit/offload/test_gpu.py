"""The engine on CUDA: the same bits as resident weights, no more memory than planned."""

import copy
import gc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.parity.recipe import fill
from tests.unit.offload.fakes import plan_for
from wan_model.attention import resolve
from wan_model.config import DiTConfig, Precision
from wan_model.dit import WanDiT
from wan_model.dit.activation_memory import activation_bytes
from wan_model.offload import CudaDevice, HostModel, OffloadEngine, Plan
from wan_model.offload.plan import RING_BYTES, resident_blocks

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="No CUDA device."),
]

BLOCKS = 8
CONFIG = DiTConfig(
    dim=512, ffn_dim=1536, num_heads=4, num_layers=BLOCKS, in_channels=16, out_channels=16,
    text_dim=64, text_len=32,
)  # fmt: skip
PRECISION = Precision(compute_dtype=torch.bfloat16)
MIB = 1 << 20


@dataclass
class Case:
    """Two experts on the host, their inputs, and what they give with resident weights."""

    dits: tuple[WanDiT, WanDiT]
    hosts: tuple[HostModel, HostModel]
    inputs: tuple[Any, ...]
    expected: tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def case() -> Case:
    high = WanDiT(CONFIG, precision=PRECISION, attention=resolve("sdpa"))
    fill(high)
    for block in high.blocks:
        block.to(torch.bfloat16)
    low = copy.deepcopy(high)
    for parameter in low.parameters():
        parameter.data.mul_(0.75)
    generator = torch.Generator("cuda").manual_seed(0)
    latent = torch.randn(1, 16, 5, 32, 48, generator=generator, device="cuda")
    text = torch.randn(1, 20, 64, generator=generator, device="cuda")
    inputs = (latent, torch.tensor([700.0], device="cuda"), text, None)
    expected = []
    for dit in (high, low):
        resident = copy.deepcopy(dit).to("cuda")
        with torch.inference_mode():
            expected.append(resident(*inputs))
    del resident
    torch.cuda.empty_cache()
    return Case((high, low), tuple(HostModel(d, d.blocks) for d in (high, low)), inputs, expected)


@pytest.fixture
def device() -> Iterator[CudaDevice]:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    yield CudaDevice("cuda")
    gc.collect()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before, "Something stayed allocated."


def plan(case: Case, resident: int, slots: int, pinned_blocks: int, ring_bytes: int) -> Plan:
    blocks = tuple(range(pinned_blocks))
    return replace(
        plan_for(case.hosts[0], experts=2, ring_bytes=ring_bytes),
        resident=resident_blocks(resident, BLOCKS),
        slots=slots,
        pinned=(blocks, blocks),
        outsides=1,
        kept=(),
    )


PLANS = [(0, 1, 0, MIB), (0, 2, 0, 0), (0, 3, BLOCKS, MIB), (3, 2, 2, RING_BYTES), (8, 0, 0, MIB)]


@pytest.mark.parametrize("counts", PLANS)
def test_the_same_bits_as_resident(case: Case, device: CudaDevice, counts):
    engine = OffloadEngine(case.hosts, plan(case, *counts), device)
    order = [0, 0, 0, 1, 1, 0, 1, 0, 0, 0]
    outputs = []
    with torch.inference_mode():
        for now, after in zip(order, [*order[1:], 0], strict=True):
            if now != after:
                engine.prefetch(after)
            outputs.append(engine.run(now, lambda r, m=now: case.dits[m].velocity(*case.inputs, r)))
    # Not looked at earlier: the queues must be able to run far ahead of each other.
    for now, output in zip(order, outputs, strict=True):
        assert torch.equal(output, case.expected[now])
    engine.unload()
    engine.release_pinned()
    assert engine.device_bytes == engine.pinned_bytes == 0


@pytest.mark.parametrize("counts", PLANS)
def test_peak_memory_is_as_planned(case: Case, device: CudaDevice, counts):
    engine = OffloadEngine(case.hosts, plan(case, *counts), device)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.inference_mode():
        for _ in range(3):
            engine.run(0, lambda run: case.dits[0].velocity(*case.inputs, run))
    peak = torch.cuda.max_memory_allocated() - before
    weights = engine.plan.weight_bytes
    activations = activation_bytes(CONFIG, PRECISION, 1, 5, 32, 48)
    assert weights <= peak <= weights + activations
    engine.unload()


class InterruptError(Exception):
    """Somebody pressed a button."""


@pytest.mark.parametrize("stop", [0, 3, BLOCKS - 1])
@pytest.mark.parametrize("counts", PLANS)
def test_interrupts_leave_a_usable_engine(case: Case, device: CudaDevice, counts, stop):
    engine = OffloadEngine(case.hosts, plan(case, *counts), device)

    def stopping(blocks: Iterable[nn.Module], x: Tensor, inputs: Any) -> Tensor:
        for number, block in enumerate(blocks):
            x = block(x, inputs)
            if number == stop:
                raise InterruptError
        return x

    outputs = []
    with torch.inference_mode():
        for _ in range(3):
            with pytest.raises(InterruptError):
                engine.run(0, lambda run: case.dits[0].velocity(*case.inputs, run), stopping)
            outputs.append(engine.run(0, lambda r: case.dits[0].velocity(*case.inputs, r)))
    assert all(torch.equal(output, case.expected[0]) for output in outputs)
    engine.unload()


def test_memory_given_up_while_the_device_still_works(case: Case, device: CudaDevice):
    engine = OffloadEngine(case.hosts, plan(case, 3, 2, 2, MIB), device)
    outputs = []
    with torch.inference_mode():
        for _ in range(4):
            outputs.append(engine.run(0, lambda r: case.dits[0].velocity(*case.inputs, r)))
            engine.shrink(case.hosts[0].slab_bytes)
            # Would land in memory that is still read or written if it were given up too early.
            junk = [torch.full((case.hosts[0].slab_bytes,), 7.0, device="cuda") for _ in range(4)]
            del junk
            outputs.append(engine.run(0, lambda r: case.dits[0].velocity(*case.inputs, r)))
            engine.unload()
            engine.release_pinned()
            engine.apply(plan(case, 3, 2, 2, MIB))
    assert all(torch.equal(output, case.expected[0]) for output in outputs)
    engine.unload()


def test_patches_on_the_device(case: Case, device: CudaDevice):
    def on_arrival(_: int, block: int | None, module: nn.Module) -> None:
        if block is not None:
            module.get_parameter("norm3.bias").add_(1)

    engine = OffloadEngine(case.hosts, plan(case, 3, 2, 0, MIB), device, on_arrival)
    patched = copy.deepcopy(case.dits[0])
    for block in patched.blocks:
        block.get_parameter("norm3.bias").add_(1)
    patched.to("cuda")
    with torch.inference_mode():
        expected = patched(*case.inputs)
        for _ in range(3):
            got = engine.run(0, lambda run: case.dits[0].velocity(*case.inputs, run))
            assert torch.equal(got, expected)
    del patched, expected, got
    engine.unload()


def test_running_out_of_memory_lowers_the_plan(case: Case, device: CudaDevice):
    engine = OffloadEngine(case.hosts, plan(case, 8, 0, 0, MIB), device)
    failed = []

    def greedy(run: Any) -> Tensor:
        velocity = case.dits[0].velocity(*case.inputs, run)
        if not failed:
            failed.append(True)
            torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
        return velocity

    with torch.inference_mode():
        assert torch.equal(engine.run(0, greedy), case.expected[0])
    assert engine.plan.streamed == BLOCKS
    engine.unload()
