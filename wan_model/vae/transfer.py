"""Chunks on their way between the host and a GPU, neither of which waits for the other.

An ordinary copy waits until the GPU has done all that it was told before, which leaves it idle
until it is told more.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def send(x: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Returns `x` on a device and in a dtype."""
    if not x.is_cpu or device.type != "cuda":
        return x.to(device, dtype)
    pinned = torch.empty(x.shape, dtype=dtype, pin_memory=True).copy_(x)
    return pinned.to(device, non_blocking=True)


class Outbox:
    """Hands out finished chunks.

    A chunk that goes from a GPU to the host is handed out when the next one is put in. By then the
    GPU has been told how to make the next one, and does so meanwhile.
    """

    def __init__(self, device: torch.device) -> None:
        """For chunks that are wanted on `device`, or are moved there by who takes them."""
        self._device = device
        self._last: tuple[torch.cuda.Event, Callable[[], object]] | None = None

    def put(self, chunk: Tensor, take: Callable[[Tensor], object]) -> None:
        """Calls `take` with the chunk, now or later."""
        self.empty()
        if not chunk.is_cuda or self._device.type != "cpu":
            take(chunk)
            return
        pinned = torch.empty(chunk.shape, dtype=chunk.dtype, pin_memory=True)
        pinned.copy_(chunk, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(chunk.device))
        self._last = copied, lambda: take(pinned)

    def empty(self) -> None:
        """Hands out what is left."""
        if self._last is not None:
            copied, hand_out = self._last
            self._last = None
            copied.synchronize()
            hand_out()
