"""A device whose copies run as late as they may, and the shared parts of the tests here."""

import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tests.unit.dit.toy import Inputs
from wan_model.dit import WanDiT, run_in_order
from wan_model.offload import (
    HostModel,
    Limits,
    Machine,
    OffloadEngine,
    Plan,
    PlanRequest,
    Runner,
    Work,
    make_plan,
    sizes_of,
)

GIB = 1 << 30


@dataclass(eq=False)
class LazyMark:
    """A mark; synchronising with it lets the copies up to it happen."""

    device: "LazyDevice"

    def synchronize(self) -> None:
        self.device.run_until(self)


class Copy(NamedTuple):
    target: Tensor
    source: Tensor
    done: LazyMark


class Event(NamedTuple):
    """One line of the device's log."""

    kind: str
    mark: LazyMark | None
    memory: int | None
    """Number of the allocation that was copied to or computed with."""


@dataclass
class LazyDevice:
    """The CPU, with a queue of copies that runs only when somebody waits for it.

    What is overwritten too early gives wrong numbers; what the order of marks permits but must
    not, `check_order` finds.
    """

    capacity_bytes: int = 1 << 40
    pins: bool = True
    log: list[Event] = field(default_factory=list)
    live_bytes: int = 0
    pinned_bytes: int = 0
    _copies: list[Copy] = field(default_factory=list)
    _memories: dict[int, tuple[int, int]] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.RLock)

    def pin(self, memory: Tensor) -> bool:
        self.pinned_bytes += memory.numel() if self.pins else 0
        return self.pins

    def unpin(self, memory: Tensor) -> None:
        self.run_until(None)
        self.pinned_bytes -= memory.numel()

    def empty(self, nbytes: int) -> Tensor:
        if self.live_bytes + nbytes > self.capacity_bytes:
            raise torch.OutOfMemoryError(f"{nbytes} more than {self.capacity_bytes}")
        self.live_bytes += nbytes
        memory = torch.full((nbytes,), 255, dtype=torch.uint8)
        number = len(self.log)
        self.log.append(Event("empty", None, number))
        self._memories[number] = (memory.data_ptr(), nbytes)
        weakref.finalize(memory, self._freed, number, nbytes)
        return memory

    def _freed(self, number: int, nbytes: int) -> None:
        self.live_bytes -= nbytes
        del self._memories[number]

    def empty_cache(self) -> None:
        self.run_until(None)

    def free_bytes(self) -> int | None:
        return self.capacity_bytes - self.live_bytes

    def mark(self) -> LazyMark:
        mark = LazyMark(self)
        self.log.append(Event("mark", mark, None))
        return mark

    def wait(self, mark: LazyMark) -> None:
        self.log.append(Event("wait", mark, None))
        self.run_until(mark)

    def copy(self, target: Tensor, source: Tensor, after: LazyMark | None) -> LazyMark:
        with self._lock:
            done = LazyMark(self)
            self._copies.append(Copy(target, source, done))
            self.log.append(Event("after", after, None))
            self.log.append(Event("copy", done, self._memory_of(target)))
        return done

    def run_until(self, mark: LazyMark | None) -> None:
        """Lets copies happen, up to `mark` or all of them."""
        with self._lock:
            if mark is not None and all(copy.done is not mark for copy in self._copies):
                return
            while self._copies:
                copy = self._copies.pop(0)
                copy.target.copy_(copy.source)
                if copy.done is mark:
                    return

    def computed_with(self, tensor: Tensor) -> None:
        """Notes that the computation used the memory behind a tensor."""
        self.log.append(Event("run", None, self._memory_of(tensor)))

    def _memory_of(self, tensor: Tensor) -> int:
        address = tensor.data_ptr()
        (number,) = [
            number
            for number, (start, size) in self._memories.items()
            if start <= address < start + size
        ]
        return number

    def check_order(self) -> int:
        """Asserts that marks order copies and computation; returns the number of uses.

        A copy into memory must come behind a mark made after the last computation with it (and
        after its allocation); a computation behind a wait for the last copy into its memory.
        """
        position = {event.mark: i for i, event in enumerate(self.log) if event.kind == "mark"}
        last_use: dict[int, int] = {}
        last_copy: dict[int, int] = {}
        copies: dict[LazyMark, int] = {}
        reached, waited, runs = -1, -1, 0
        for i, event in enumerate(self.log):
            if event.kind in ("empty", "run"):
                last_use[event.memory] = i
            if event.kind == "after" and event.mark is not None:
                reached = max(reached, position[event.mark])
            elif event.kind == "copy":
                assert reached > last_use[event.memory], "overwritten while in use"
                last_copy[event.memory] = copies[event.mark] = i
            elif event.kind == "wait":
                waited = max(waited, copies[event.mark])
            elif event.kind == "run":
                assert waited >= last_copy[event.memory], "used before it was there"
                runs += 1
        return runs


def plan_for(
    host: HostModel, experts: int = 1, ring_bytes: int | None = None, **limits: Any
) -> Plan:
    """Returns a plan without any limit but the given ones, with a ring of parts of a block."""
    request = PlanRequest(
        sizes=sizes_of([host] * experts),
        machine=Machine(free_vram_bytes=GIB, free_ram_bytes=GIB),
        work=Work(activation_bytes=0, block_seconds=1),
        limits=Limits(**limits),
    )
    parts = max(8192, host.slab_bytes // 4)
    return replace(make_plan(request), ring_bytes=parts if ring_bytes is None else ring_bytes)


@dataclass(frozen=True)
class Recorder:
    """Runs blocks in order and tells the device whose memory each of them uses."""

    device: LazyDevice

    def __call__(self, blocks: Iterable[nn.Module], x: Tensor, inputs: Any) -> Tensor:
        def noted() -> Iterable[nn.Module]:
            for block in blocks:
                self.device.computed_with(block.modulation)
                yield block

        return run_in_order(noted(), x, inputs)


def forward(
    engine: OffloadEngine, device: LazyDevice, dit: WanDiT, inputs: Inputs, model: int = 0
) -> Tensor:
    """Runs one forward pass through an engine, as ComfyUI does: in inference mode."""

    def velocity(run: Runner) -> Tensor:
        device.computed_with(dit.patch_embedding.bias)
        out = dit.velocity(*inputs, run)
        device.computed_with(dit.head.modulation)
        return out

    with torch.inference_mode():
        return engine.run(model, velocity, Recorder(device))
