"""Estimates that plans are made with."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.unit.dit.toy import make_dit
from tests.unit.offload.fakes import LazyDevice
from wan_model.offload import (
    HostModel,
    Pace,
    Stopwatch,
    measure_copy,
    measure_matmul,
    measure_memory,
    measure_read,
)


@torch.inference_mode()
def test_rates_are_measured():
    device, model = LazyDevice(), make_dit()
    noise_to_come = torch.get_rng_state()
    assert measure_copy(device) > 1e6
    assert device.pinned_bytes == 0
    assert measure_read(HostModel(model, model.blocks).slabs[0]) > 1e5
    assert measure_matmul("cpu") > 1e6
    assert measure_memory("cpu") > 1e6
    assert torch.equal(torch.get_rng_state(), noise_to_come), "A sampler's seed gives other noise."


def test_a_stopwatch_times_what_lies_between():
    start = time.perf_counter()
    watch = Stopwatch("cpu")
    assert watch.seconds is None
    sum(range(100_000))
    watch.stop()
    assert watch.seconds is not None
    assert 0 < watch.seconds <= time.perf_counter() - start


def test_the_pace_is_that_of_the_fastest_pass_that_is_over():
    def watch(seconds: float | None) -> Any:
        return SimpleNamespace(seconds=seconds)

    pace = Pace()
    pace.add(watch(20.0), 4.0)
    assert pace.factor == 1, "The first pass compiles."
    pace.add(watch(None), 4.0)
    assert pace.factor == 1
    pace.add(watch(2.0), 4.0)
    assert pace.factor == 0.5
    pace.add(watch(9.0), 16.0)
    assert pace.factor == 0.5
    for _ in range(16):
        pace.add(watch(3.0), 4.0)
    assert pace.factor == 0.75, "What runs now counts."


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="No CUDA device.")
def test_a_stopwatch_waits_for_nothing():
    a = torch.ones(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    watch = Stopwatch("cuda")
    for _ in range(50):
        torch.mm(a, a)
    watch.stop()
    assert watch.seconds is None
    torch.cuda.synchronize()
    assert watch.seconds is not None
    assert watch.seconds > 1e-3
