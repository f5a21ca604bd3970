"""Memory on the device, and whose weights are in it."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .device_queues import Device, Mark
from .host_model import HostSlab

Key = tuple[int, int]
"""(model, block)."""


@dataclass(eq=False)
class Buffer:
    """Room for one slab on the device."""

    memory: Tensor
    unused_from: Mark
    """When the computation no longer reads it."""
    arrival: Future[Mark] | None = None
    """What is on its way or there; its result tells when copying ends."""
    in_use: bool = False
    """Whether its content has been waited for, and patched, by the computation."""
    _views: WeakKeyDictionary[HostSlab, tuple[Any, ...]] = field(default_factory=WeakKeyDictionary)

    def views(self, slab: HostSlab) -> tuple[Any, ...]:
        """Returns what `HostSlab.bind` takes, for the slab as it lies in this buffer."""
        views = self._views.get(slab)
        if views is None:
            # Made by hand in one mode and written to by the worker in another.
            with torch.inference_mode(False):
                views = self._views[slab] = slab.views(self.memory)
        return views

    def clear(self) -> None:
        """Forgets the content."""
        if self.arrival is not None:
            self.arrival.cancel()
        self.arrival, self.in_use = None, False


class BufferPool:
    """Equal buffers, held by blocks or free.

    Attributes:
        held: by block.
        free: the rest.
    """

    def __init__(self, device: Device, slab_bytes: int) -> None:
        self._device = device
        self._slab_bytes = slab_bytes
        self.held: dict[Key, Buffer] = {}
        self.free: list[Buffer] = []

    def __len__(self) -> int:
        return len(self.held) + len(self.free)

    def grow(self, count: int) -> None:
        """Allocates until there are `count` buffers."""
        while len(self) < count:
            self.free.append(new_buffer(self._device, self._slab_bytes))

    def shrink(self, count: int) -> None:
        """Gives free buffers up until there are `count` in all, or none is free."""
        while len(self) > count and self.free:
            self.free.pop()

    def take(self, key: Key) -> Buffer:
        """Gives a free buffer to a block."""
        buffer = self.held[key] = self.free.pop()
        return buffer

    def release(self, unwanted: Callable[[Key, Buffer], bool]) -> None:
        """Frees the buffers for which `unwanted` holds."""
        for key in [key for key, buffer in self.held.items() if unwanted(key, buffer)]:
            buffer = self.held.pop(key)
            buffer.clear()
            self.free.append(buffer)


def new_buffer(device: Device, nbytes: int) -> Buffer:
    """Allocates a buffer."""
    # Memory made in inference mode could not be written to by the worker thread.
    with torch.inference_mode(False):
        memory = device.empty(nbytes)
    return Buffer(memory, device.mark())
