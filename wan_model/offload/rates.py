"""How fast this computer moves and multiplies: what plans are made with."""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from .device_queues import Device, HostBuffer
from .host_model import LANES, HostSlab

SAMPLE_BYTES = 64 << 20
REPEATS = 4

TIMED_PASSES = 16
"""How many are remembered."""

WAKING_SECONDS = 0.05
"""In which a GPU that was idle raises its clock."""

MATMUL_SIZES = {"cuda": (4096, 5120, 16), "other": (512, 512, 4)}
"""Rows, width and repeats: on a GPU, half of what a linear layer of a video is given at a time."""


class Stopwatch:
    """Times what a device computes from now until `stop`, without waiting for it."""

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self._start, self._end = self._now(), None

    def stop(self) -> None:
        """Ends what is timed."""
        self._end = self._now()

    @property
    def seconds(self) -> float | None:
        """How long it took; None as long as the device has not finished it."""
        if isinstance(self._start, float):
            return None if self._end is None else self._end - self._start
        finished = self._end is not None and self._end.query()
        return self._start.elapsed_time(self._end) / 1000 if finished else None

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


class Pace:
    """How long forward passes take, compared with what was estimated.

    An estimate knows nothing of LoRAs, of what other nodes change, and of a GPU's temperature.
    """

    def __init__(self) -> None:
        self._passes: deque[tuple[Stopwatch, float]] = deque(maxlen=TIMED_PASSES)

    def add(self, watch: Stopwatch, estimate_seconds: float) -> None:
        """Takes a pass, which need not be over."""
        if estimate_seconds > 0:
            self._passes.append((watch, estimate_seconds))

    @property
    def factor(self) -> float:
        """What to multiply an estimate by; 1 until a second pass is over.

        The fastest of the last passes counts: the first ones compile, and read files that are not
        in memory yet.
        """
        finished = [(watch.seconds, estimate) for watch, estimate in self._passes]
        factors = [seconds / estimate for seconds, estimate in finished if seconds is not None]
        return min(factors) if len(factors) >= 2 else 1.0


def measure_copy(device: Device) -> float:
    """Returns bytes per second from pinned memory to the device."""
    buffer, target = HostBuffer(SAMPLE_BYTES, device), device.empty(SAMPLE_BYTES)
    device.copy(target, buffer.memory, device.mark()).synchronize()
    start = time.perf_counter()
    done = [device.copy(target, buffer.memory, None) for _ in range(REPEATS)]
    done[-1].synchronize()
    seconds = time.perf_counter() - start
    buffer.close()
    return REPEATS * SAMPLE_BYTES / seconds


def measure_read(slab: HostSlab) -> float:
    """Returns bytes per second from the file cache, or from tensors, to memory of our own."""
    nbytes = min(SAMPLE_BYTES, slab.layout.nbytes)
    with torch.inference_mode(False):
        target = torch.empty(nbytes, dtype=torch.uint8)
    seconds = []
    with ThreadPoolExecutor(LANES) as pool:
        for _ in range(REPEATS):
            start = time.perf_counter()
            slab.read(target, 0, pool)
            seconds.append(time.perf_counter() - start)
    # The first may come from the disk.
    return nbytes / min(seconds)


def measure_matmul(device: torch.device | str, dtype: torch.dtype = torch.bfloat16) -> float:
    """Returns floating-point operations per second of large matmuls.

    Of random values: an H200 multiplies constant ones an eighth faster than a model's.
    """
    device = torch.device(device)
    rows, width, repeats = MATMUL_SIZES.get(device.type, MATMUL_SIZES["other"])
    # One of its own: samplers may have seeded PyTorch's for their noise. Not all devices have one.
    generator = torch.Generator(device if device.type == "cuda" else "cpu").manual_seed(0)
    a, b = (
        torch.randn(size, width, generator=generator, dtype=dtype, device=generator.device)
        for size in (rows, width)
    )
    a, b = a.to(device), b.to(device)
    out = a @ b
    seconds = _seconds(lambda: torch.mm(a, b, out=out), repeats, device)
    return repeats * 2 * rows * width**2 / seconds


def measure_memory(device: torch.device | str) -> float:
    """Returns the bytes per second that a device reads and writes of its own memory."""
    source = torch.zeros(SAMPLE_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = _seconds(lambda: target.copy_(source), REPEATS, torch.device(device))
    return REPEATS * 2 * source.numel() / seconds


def _seconds(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Returns what repeated calls take on a device that is awake."""
    awake = time.perf_counter() + WAKING_SECONDS
    while time.perf_counter() < awake:
        call()
        _wait_for(device)
    watch = Stopwatch(device)
    for _ in range(repeats):
        call()
    watch.stop()
    _wait_for(device)
    assert watch.seconds is not None
    return max(watch.seconds, 1e-9)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
