"""Brings slabs from the host to the device, in order, on a thread of its own.

Weights that are not pinned go through a ring of small pinned buffers, so that little RAM is taken
and the copy of a slab's start overlaps reading its end.
"""

import logging
from collections.abc import Container, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor

from ..errors import MemoryLimitError
from .device_queues import Device, HostBuffer, Mark
from .host_model import LANES, WARMERS, HostSlab

log = logging.getLogger(__name__)

STAGING_BUFFERS = 4
UNPINNED_RING_BYTES = 32 << 20


@dataclass
class _Staging:
    """One buffer of the ring, and the end of the last copy out of it."""

    buffer: HostBuffer
    busy: Mark | None = None


class Feeder:
    """Executes deliveries one by one. All methods but the delivery itself are for one thread."""

    def __init__(self, device: Device, ring_bytes: int) -> None:
        """Prepares; threads and buffers come into being with the first delivery.

        Args:
            device: where slabs go.
            ring_bytes: of the ring of pinned buffers. With 0 there is one that is not pinned.
        """
        self._device = device
        self._ring_bytes = ring_bytes
        self._ring: list[_Staging] = []
        self._turn = -1
        self._pins: dict[Hashable, HostBuffer] = {}
        self._worker = ThreadPoolExecutor(1, "wan-offload")
        self._readers = ThreadPoolExecutor(LANES, "wan-read")
        self._warmer = ThreadPoolExecutor(WARMERS, "wan-warm")

    def deliver(
        self, key: Hashable, slab: HostSlab, target: Tensor, after: Mark, *, pin: bool
    ) -> Future[Mark]:
        """Has a slab brought to the device, after all earlier ones.

        Args:
            key: of the slab, which stays the same.
            slab: what to bring.
            target: uint8 memory on the device.
            after: mark of the computation from which on the target may be overwritten.
            pin: whether to keep the slab in pinned memory for the next time.

        Returns:
            the mark of its end, as soon as all copies are queued. Raises what reading raised.
        """
        target = target[: slab.layout.nbytes]
        return self._worker.submit(self._deliver, key, slab, target, after, pin)

    def warm(self, slabs: Iterable[HostSlab]) -> None:
        """Has the files behind slabs read into the system's cache, beside everything else."""
        for slab in slabs:
            self._warmer.submit(slab.warm)

    def drain(self) -> None:
        """Waits until every delivery not cancelled has been queued or has failed."""
        self._worker.submit(_nothing).result()

    @property
    def pinned_bytes(self) -> int:
        """Host memory held: pinned slabs and the ring."""
        buffers = [*list(self._pins.values()), *(staging.buffer for staging in self._ring)]
        return sum(buffer.memory.numel() for buffer in buffers)

    def release(self) -> None:
        """Gives back all pinned slabs and the ring."""
        self.limit(self._ring_bytes, ())
        self.release_ring()

    def release_ring(self) -> None:
        """Gives back the ring. The next delivery makes a new one."""
        if not self._ring:
            return
        self.drain()
        for staging in self._ring:
            staging.buffer.close()
        self._ring.clear()

    def limit(self, ring_bytes: int, keep_pinned: Container[Hashable]) -> None:
        """Changes the ring's size, and gives back all pinned slabs but some."""
        self.drain()
        for key in [key for key in self._pins if key not in keep_pinned]:
            self._pins.pop(key).close()
        if ring_bytes != self._ring_bytes:
            self.release_ring()
            self._ring_bytes = ring_bytes

    @property
    def _chunk_bytes(self) -> int:
        return max(1, (self._ring_bytes or UNPINNED_RING_BYTES) // STAGING_BUFFERS)

    def _deliver(
        self, key: Hashable, slab: HostSlab, target: Tensor, after: Mark, pin: bool
    ) -> Mark:
        if pin and key not in self._pins:
            self._pin(key, slab)
        pinned = self._pins.get(key)
        if pinned is None:
            return self._through_ring(slab, target, after)
        return self._device.copy(target, pinned.memory, after)

    def _pin(self, key: Hashable, slab: HostSlab) -> None:
        try:
            buffer = HostBuffer(slab.layout.nbytes, self._device)
        except MemoryLimitError as error:
            log.warning("Weights go through the ring instead: %s", error)
            return
        if buffer.pinned:
            slab.read(buffer.memory, 0, self._readers)
            self._pins[key] = buffer

    def _through_ring(self, slab: HostSlab, target: Tensor, after: Mark) -> Mark:
        done, first = after, True
        for start in range(0, target.numel(), self._chunk_bytes):
            part = target[start : start + self._chunk_bytes]
            staging = self._next_staging()
            memory = staging.buffer.memory[: part.numel()]
            slab.read(memory, start, self._readers)
            # Copies run in order, so that one wait, of the first, serves all.
            done = staging.busy = self._device.copy(part, memory, after if first else None)
            first = False
        return done

    def _next_staging(self) -> _Staging:
        if len(self._ring) < STAGING_BUFFERS:
            buffer = HostBuffer(self._chunk_bytes, self._device, pin=self._ring_bytes > 0)
            self._ring.append(_Staging(buffer))
            return self._ring[-1]
        self._turn = (self._turn + 1) % STAGING_BUFFERS
        staging = self._ring[self._turn]
        if staging.busy is not None:
            staging.busy.synchronize()
        return staging


def _nothing() -> None:
    """Marks a place in the worker's queue."""
