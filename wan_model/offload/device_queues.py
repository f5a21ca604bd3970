"""What the engine asks of a device: memory, copies beside the computation, and their order.

There are two queues of work: the computation, issued by the main thread, and the copies, issued by
the engine's worker thread. Each runs in order; marks order one after the other.
"""

import logging
import mmap
import weakref
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import MemoryLimitError

log = logging.getLogger(__name__)

PORTABLE = 1
"""cudaHostRegisterPortable: pinned for every device, not only the thread's current one."""


class Mark(Protocol):
    """A point in one queue."""

    def synchronize(self) -> None:
        """Makes the calling thread wait until the point is reached."""
        ...


class Device(Protocol):
    """Memory and the two queues of one device."""

    def pin(self, memory: Tensor) -> bool:
        """Pins host memory, so that copies from it run by themselves; False if it cannot."""
        ...

    def unpin(self, memory: Tensor) -> None:
        """Undoes `pin`."""
        ...

    def empty(self, nbytes: int) -> Tensor:
        """Returns uninitialised memory (uint8), for the main thread only.

        The first copy into it must come behind a mark made after this call: an allocator may hand
        out memory that queued computations still use.
        """
        ...

    def empty_cache(self) -> None:
        """Returns memory that nobody holds any more to the system."""
        ...

    def mark(self) -> Mark:
        """Returns the present end of the computation."""
        ...

    def wait(self, mark: Mark) -> None:
        """Makes the computation wait for a mark of the copies, without waiting itself."""
        ...

    def copy(self, target: Tensor, source: Tensor, after: Mark | None) -> Mark:
        """Queues a copy from host memory, behind a mark of the computation; returns its end."""
        ...

    def free_bytes(self) -> int | None:
        """Returns the memory that is left on the device, if it can be known."""
        ...


class _Done:
    """A mark of a device whose queues never run behind."""

    def synchronize(self) -> None:
        """Returns at once."""


class PlainDevice:
    """Any device that torch knows; each copy ends before the next instruction."""

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)

    def pin(self, memory: Tensor) -> bool:  # noqa: ARG002
        """Does not pin."""
        return False

    def unpin(self, memory: Tensor) -> None:
        """Nothing was pinned."""

    def empty(self, nbytes: int) -> Tensor:
        """Returns uninitialised memory."""
        return torch.empty(nbytes, dtype=torch.uint8, device=self._device)

    def empty_cache(self) -> None:
        """Leaves it to the device's allocator."""

    def mark(self) -> Mark:
        """Returns a mark that is always reached."""
        return _Done()

    def wait(self, mark: Mark) -> None:
        """Nothing to wait for."""

    def copy(self, target: Tensor, source: Tensor, after: Mark | None) -> Mark:  # noqa: ARG002
        """Copies at once."""
        target.copy_(source)
        return _Done()

    def free_bytes(self) -> int | None:
        """Unknown."""
        return None


class CudaDevice:
    """A CUDA (or ROCm) device: computation on the caller's stream, copies on their own."""

    def __init__(self, device: torch.device | str) -> None:
        index = torch.device(device).index
        # With a number: the current device of the engine's threads may be another one.
        number = torch.cuda.current_device() if index is None else index
        self._device = torch.device("cuda", number)
        self._copies = torch.cuda.Stream(self._device)

    def pin(self, memory: Tensor) -> bool:
        """Registers memory with CUDA.

        torch's own pinned allocator rounds sizes up to powers of two and never gives memory back
        to the system; registering ordinary memory does neither.
        """
        runtime: Any = torch.cuda.cudart()
        with torch.cuda.device(self._device):
            code = int(runtime.cudaHostRegister(memory.data_ptr(), memory.numel(), PORTABLE))
        if code != 0:
            size = f"{memory.numel() / 2**20:.0f} MiB"
            log.warning("Cannot pin %s (CUDA error %d); copies will be slower.", size, code)
            self._discard_error()
        return code == 0

    def unpin(self, memory: Tensor) -> None:
        """Unregisters memory, after the last copy out of it."""
        self._copies.synchronize()
        runtime: Any = torch.cuda.cudart()
        with torch.cuda.device(self._device):
            code = int(runtime.cudaHostUnregister(memory.data_ptr()))
        if code != 0:
            log.warning("Cannot unpin memory (CUDA error %d).", code)
            self._discard_error()

    def _discard_error(self) -> None:
        """Takes the error out of the CUDA runtime, where the next kernel launch would find it."""
        try:
            torch.zeros(1, device=self._device).add_(1).cpu()
        except RuntimeError as error:
            log.debug("Discarded: %s", error)

    def empty(self, nbytes: int) -> Tensor:
        """Returns uninitialised memory of the computation's stream."""
        memory = torch.empty(nbytes, dtype=torch.uint8, device=self._device)
        # Once given up, it is reused only when the copies that were queued by then are done.
        memory.record_stream(self._copies)
        return memory

    def empty_cache(self) -> None:
        """Gives cached memory back to the driver."""
        torch.cuda.empty_cache()

    def mark(self) -> Mark:
        """Records an event on the computation's stream."""
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        return event

    def wait(self, mark: Mark) -> None:
        """Queues a wait on the computation's stream."""
        if isinstance(mark, torch.cuda.Event):
            torch.cuda.current_stream(self._device).wait_event(mark)

    def copy(self, target: Tensor, source: Tensor, after: Mark | None) -> Mark:
        """Queues wait, copy and event on the stream of copies."""
        # A thread that waits for a blocking event sleeps instead of spinning.
        done = torch.cuda.Event(blocking=True)
        with torch.cuda.stream(self._copies):
            if isinstance(after, torch.cuda.Event):
                self._copies.wait_event(after)
            target.copy_(source, non_blocking=True)
            done.record(self._copies)
        return done

    def free_bytes(self) -> int | None:
        """Asks the driver."""
        return torch.cuda.mem_get_info(self._device)[0]


def open_device(device: torch.device | str) -> Device:
    """Returns the best that is known for a device."""
    found = torch.device(device)
    return CudaDevice(found) if found.type == "cuda" else PlainDevice(found)


class HostBuffer:
    """Host memory for copies to a device, pinned if the device can.

    Attributes:
        memory: uint8.
        pinned: whether it is.
    """

    def __init__(self, nbytes: int, device: Device, *, pin: bool = True) -> None:
        try:
            # Threads that read files are not in inference mode and could not write to it.
            with torch.inference_mode(False):
                self.memory = _whole_pages(nbytes)
        except RuntimeError as error:
            raise MemoryLimitError(
                "The computer's memory is full. Got no room for "
                f"{nbytes / 2**20:.0f} MiB of weights, need it for copies to the GPU. Close other "
                "programs, or allow less pinned RAM.",
                limits=("pinned_ram_bytes",),
            ) from error
        self.pinned = pin and device.pin(self.memory)
        # The finalizer holds the memory, which must not be freed while it is pinned.
        self._unpin = weakref.finalize(self, device.unpin, self.memory) if self.pinned else None
        if self._unpin is not None:
            self._unpin.atexit = False

    def close(self) -> None:
        """Gives the memory back. No copy may be under way."""
        if self._unpin is not None:
            self._unpin()
        self.memory = torch.empty(0, dtype=torch.uint8)


def _whole_pages(nbytes: int) -> Tensor:
    """Returns uninitialised host memory (uint8) that shares no page with any other.

    Pages are what CUDA pins, each only once: a neighbour on the same page could not be.
    """
    page = mmap.PAGESIZE
    memory = torch.empty((-(-nbytes // page) + 1) * page, dtype=torch.uint8)
    start = -memory.data_ptr() % page
    return memory[start : start + nbytes]
