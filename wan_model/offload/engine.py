"""Runs models whose weights are not all on the device, following a plan.

The main thread decides what travels when and never waits for the device: it waits, if at all, until
the worker has *queued* the copy of the block that comes next. The device itself orders copies
and computation by marks. Nothing is ever copied back.
"""

import logging
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..errors import MemoryLimitError
from .buffers import Buffer, Key
from .device_queues import Device
from .host_model import Extra, HostModel, HostSlab
from .plan import GIB, Plan, lowered, smallest
from .traffic import OUTSIDE, Traffic

log = logging.getLogger(__name__)

T = TypeVar("T")

WORTHWHILE = 0.95
"""Part of the seconds to which weights on the device have to bring a pass, after memory ran out."""


class Runner(Protocol):
    """How blocks in place are run; what `dit.BlockRunner` describes."""

    def __call__(self, blocks: Iterable[Callable[..., Any]], x: Tensor, inputs: Any, /) -> Tensor:
        """Returns the residual stream after all blocks."""
        ...


class OnArrival(Protocol):
    """Changes weights on the device, such as adding LoRAs: called once after each arrival.

    It runs on the main thread, on the computation's stream, with the weights in their places in
    `module`, and writes to them in place. `block` is None for what lies outside the blocks;
    `module` is the block, or the whole model.
    """

    def __call__(self, model: int, block: int | None, module: nn.Module, /) -> None:
        """Patches the weights of one block."""
        ...


def in_order(blocks: Iterable[Any], x: Tensor, inputs: Any) -> Tensor:
    """Runs blocks one after the other."""
    for block in blocks:
        x = block(x, inputs)
    return x


class OffloadEngine:
    """One or more models (the experts) that share one device's buffers.

    Not thread-safe: every method belongs to the thread that computes, and all but `prefetch` are
    for the time between forward passes. A module has its own host tensors at all times, except for
    the block that is running and, during a forward pass, what lies outside of the blocks.
    """

    def __init__(
        self,
        models: Sequence[HostModel],
        plan: Plan,
        device: Device,
        on_arrival: OnArrival | None = None,
    ) -> None:
        """Takes nothing yet; the first forward pass does.

        Args:
            models: with equal numbers of blocks.
            plan: made for the largest of them.
            device: that computes.
            on_arrival: see `OnArrival`.
        """
        self._models = tuple(models)
        self._device = device
        self._on_arrival = on_arrival
        self._traffic = Traffic(models, plan, device)

    def run(
        self,
        model: int,
        forward: Callable[[Runner], T],
        runner: Runner = in_order,
        *,
        repeats: bool = True,
    ) -> T:
        """Runs a forward pass, a second time with all blocks streamed if memory runs out.

        How much is missing is not known, and there is one repetition, so this one takes as little
        as possible. If that is slower, the passes that follow are lowered by a margin only.

        Args:
            model: number of the expert.
            forward: what to run; it gives its blocks to the runner it gets.
            runner: runs blocks in place, obeys interrupts and the like.
            repeats: False where other devices take part, which would not know of a second time.
                The next pass is lowered then.

        Raises:
            CheckpointError: if a weight file was changed, cut off or cannot be read.
            MemoryLimitError: if memory runs out even with the smallest plan.
        """
        try:
            return self._forward(model, forward, runner)
        except torch.OutOfMemoryError as error:
            reason = str(error)
        # Outside of the handler the failed pass' tensors are gone.
        failed, least = self.plan, smallest(self.plan)
        if not repeats:
            self.unload()
            self.apply(lowered(failed, failed.margin_bytes))
            video_bytes = failed.request.work.video_bytes
            raise MemoryLimitError(
                f"The GPU ran out of memory. Got {failed.weight_bytes / GIB:.2f} GiB of weights "
                f"and a video of {video_bytes / GIB:.2f} GiB, need room for both. Run it once more "
                "with fewer weights there, or make the video shorter or smaller."
            )
        if least.weight_bytes < failed.weight_bytes:
            log.warning("Out of memory with %s. Trying again with %s.", failed, least)
            self.unload()
            self.apply(least)
            try:
                result = self._forward(model, forward, runner)
            except torch.OutOfMemoryError as error:
                reason = str(error)
            else:
                following = lowered(failed, failed.margin_bytes)
                if following.seconds < WORTHWHILE * least.seconds:
                    self.apply(following)
                return result
        raise self._out_of_memory(reason)

    def prefetch(self, model: int, after: int = 1) -> None:
        """Announces a model: its first blocks travel when its turn is near.

        Args:
            model: number of the expert.
            after: forward passes to be finished before its first, the running one included.
                0 starts to fetch now.
        """
        if after > 0:
            self._traffic.announce(model, after)
            return
        try:
            self._traffic.fetch(model)
        except torch.OutOfMemoryError as error:
            log.info("No memory to fetch weights early: %s", error)
            self.unload()

    @property
    def plan(self) -> Plan:
        """What the next forward pass follows."""
        return self._traffic.plan

    def apply(self, plan: Plan) -> None:
        """Follows another plan from now on; memory that it does not need is given back."""
        self._traffic.apply(plan)

    @property
    def device_bytes(self) -> int:
        """Memory taken on the device."""
        return self._traffic.device_bytes

    @property
    def pinned_bytes(self) -> int:
        """Host memory that the engine holds."""
        return self._traffic.pinned_bytes

    def shrink(self, nbytes: int) -> int:
        """Gives back at least `nbytes` of the device's memory if there is as much; lowers the plan.

        Returns:
            bytes given back.
        """
        before = self.device_bytes
        unused = max(0, self.plan.weight_bytes - before)
        self.apply(lowered(self.plan, nbytes + unused))
        if before - self.device_bytes < nbytes:
            self.unload()
        return before - self.device_bytes

    def unload(self) -> None:
        """Gives the device's memory back; the next forward pass takes again what it needs."""
        self._traffic.unload()

    def release_pinned(self) -> None:
        """Gives pinned host memory back; the next forward pass takes it again."""
        self._traffic.release_pinned()

    def refresh(self, model: int) -> None:
        """Fetches a model's weights anew: what `on_arrival` does to them has changed."""
        self._traffic.forget(model)

    def carry(self, model: int, extras: Mapping[int | None, Sequence[Extra]]) -> None:
        """Has other tensors travel with a model's own; see `HostModel.carry`.

        The plan in use does not know of them: apply another one if they are larger than before.
        """
        self._models[model].carry(extras)
        self._traffic.replace(model)

    def _forward(self, model: int, forward: Callable[[Runner], T], runner: Runner) -> T:
        host = self._models[model]
        host.check_files()
        outside = self._traffic.begin(model)
        self._bind(host.outside, outside, (model, OUTSIDE))
        try:
            result = forward(partial(self._run_blocks, model, runner))
        finally:
            host.outside.unbind()
            outside.unused_from = self._device.mark()
        self._traffic.finish()
        return result

    def _run_blocks(
        self, model: int, runner: Runner, blocks: Iterable[Any], x: Tensor, inputs: Any
    ) -> Tensor:
        # Closed at once: otherwise a block stays bound until the exception's frames are gone.
        with closing(self._visit(model, blocks)) as visited:
            return runner(visited, x, inputs)

    def _visit(self, model: int, blocks: Iterable[nn.Module]) -> Generator[nn.Module, None, None]:
        """Yields the blocks, each with its weights on the device until the next one is taken."""
        slabs = self._models[model].slabs
        for number, (block, slab) in enumerate(zip(blocks, slabs, strict=True)):
            key = (model, number)
            buffer = self._traffic.reach(key)
            self._bind(slab, buffer, key)
            try:
                yield block
            finally:
                slab.unbind()
                buffer.unused_from = self._device.mark()
            self._traffic.leave(key)

    def _bind(self, slab: HostSlab, buffer: Buffer, key: Key) -> None:
        """Puts weights in place as soon as their copy is queued."""
        if buffer.in_use:
            slab.bind(buffer.views(slab))
            return
        if buffer.arrival is None:
            raise RuntimeError(f"Nothing is on its way for {key}")
        self._device.wait(buffer.arrival.result())
        slab.bind(buffer.views(slab))
        try:
            self._patch(key)
        except BaseException:
            slab.unbind()
            buffer.unused_from = self._device.mark()
            raise
        buffer.in_use = True

    def _patch(self, key: Key) -> None:
        model, block = key
        host = self._models[model]
        if self._on_arrival is None:
            return
        if block == OUTSIDE:
            self._on_arrival(model, None, host.module)
        else:
            self._on_arrival(model, block, host.blocks[block])

    def _out_of_memory(self, reason: str) -> MemoryLimitError:
        """Gives everything back and says what was measured."""
        log.warning("Out of memory with %s: %s", self.plan, reason)
        self.unload()
        free, plan = self._device.free_bytes(), self.plan
        advice = ["close other programs that use the GPU", "make the video shorter or smaller"]
        if free is not None and free >= plan.peak_bytes:
            # There is as much as was thought, so the video takes more than that.
            advice = [advice[1], "remove LoRAs and other additions from the model", advice[0]]
        found = "an unknown number of" if free is None else f"{free / GIB:.2f}"
        video = plan.request.work.video_bytes / GIB
        return MemoryLimitError(
            "The GPU ran out of memory although all blocks were streamed. Got "
            f"{found} GiB free without this model, need {plan.weight_bytes / GIB:.2f} GiB for the "
            f"part of it that is there at a time, and {video:.2f} GiB, if not more, for the "
            f"video. Try in this order: {'; '.join(advice)}."
        )
