"""What is on the device, what travels there next, and into whose place.

Everything is decided by the main thread, in the order in which it queues the computation; the
worker only executes. A buffer is given away as soon as the last computation with it is *queued*,
together with a mark that the copy into it has to wait for.
"""

from collections.abc import Callable, Iterator, Sequence

from .buffers import Buffer, BufferPool, Key, new_buffer
from .device_queues import Device
from .feeder import Feeder
from .host_model import HostModel, HostSlab
from .plan import Plan

OUTSIDE = -1
"""Block number of what lies outside the blocks."""


class Traffic:
    """Buffers of one device, shared by the blocks of one or more models.

    Attributes:
        plan: what is followed.
    """

    def __init__(self, models: Sequence[HostModel], plan: Plan, device: Device) -> None:
        self.plan = plan
        self._models = tuple(models)
        self._device = device
        self._slab_bytes, self._outside_bytes = self._largest
        self._pool = BufferPool(device, self._slab_bytes)
        self._outsides: dict[int, Buffer] = {}
        self._feeder = Feeder(device, plan.ring_bytes)
        self._active = 0
        self._position = 0
        """The block that runs next."""
        self._orderly = True
        """Whether streamed blocks under way are the ones that come next."""
        self._announced: tuple[int, int] | None = None
        """A model, and the forward passes to be finished before its turn."""
        self._warmed: set[int] = set()

    # A forward pass

    def begin(self, model: int) -> Buffer:
        """Starts a forward pass; returns the buffer of what lies outside of the blocks."""
        self.fetch(model)
        # Whatever happens, the pass did not end well until it has.
        self._orderly = False
        return self._outsides[model]

    def reach(self, key: Key) -> Buffer:
        """Returns the buffer of the block that runs next."""
        self._position = key[1]
        if key not in self._pool.held:
            self._schedule()
        return self._pool.held[key]

    def leave(self, key: Key) -> None:
        """Gives the buffer of the block that has run to another, unless it stays."""
        self._position = key[1] + 1
        if not self._stays(key, self._following):
            self._pool.release(lambda other, _: other == key)
        self._schedule()

    def finish(self) -> None:
        """Ends a forward pass that went well."""
        previous, self._active = self._active, self._following
        self._position = 0
        self._orderly = True
        if self._announced is None:
            return
        model, after = self._announced
        self._announced = (model, after - 1) if after > 1 else None
        if self.plan.fits_ram and model not in self._warmed and model != previous:
            self._warmed.add(model)
            self._feeder.warm(self._models[model].slabs)

    # What comes

    def announce(self, model: int, after: int) -> None:
        """Expects a model after so many more forward passes, at least one."""
        self._announced = (model, after)

    def fetch(self, model: int) -> None:
        """Sends off a model's first blocks, from now on the one that runs."""
        self._turn_to(model)
        self._pool.grow(self.plan.buffers)
        if not self.plan.streamed and all(b.in_use for b in self._pool.held.values()):
            self._feeder.release_ring()
        self._send_outside(model)
        self._schedule()

    @property
    def _following(self) -> int:
        """The model of the forward pass after this one."""
        if self._announced is not None and self._announced[1] == 1:
            return self._announced[0]
        return self._active

    def _stays(self, key: Key, model: int) -> bool:
        """Whether a block keeps its buffer while `model` runs."""
        return key[1] in (self.plan.resident if key[0] == model else self.plan.kept)

    def _turn_to(self, model: int) -> None:
        """Frees the buffers of blocks that are not needed while `model` runs."""
        as_expected = self._orderly and model == self._active

        def unwanted(key: Key, buffer: Buffer) -> bool:
            if not buffer.in_use and (not as_expected or key[0] == model):
                return not as_expected
            return not self._stays(key, model)

        self._pool.release(unwanted)
        if not as_expected:
            self._drop_outsides(lambda _, buffer: not buffer.in_use)
        self._active, self._position, self._orderly = model, 0, True

    def _upcoming(self) -> Iterator[Key]:
        """Yields what is needed, in order: for this forward pass, the next, and what waits."""
        following = self._following
        for number in range(self._position, len(self._models[self._active].blocks)):
            yield self._active, number
        if following != self._active:
            yield following, OUTSIDE
        for number in range(len(self._models[following].blocks)):
            yield following, number
        if self._announced is not None:
            for number in self.plan.kept:
                yield self._announced[0], number

    def _schedule(self) -> None:
        """Sends off what is needed next, as far as there are buffers."""
        for key in self._upcoming():
            model, block = key
            if block == OUTSIDE:
                if len(self._outsides) < self.plan.outsides:
                    self._send_outside(model)
            elif key not in self._pool.held:
                if not self._pool.free:
                    return
                self._send(key, self._models[model].slabs[block], self._pool.take(key))

    def _send(self, key: Key, slab: HostSlab, buffer: Buffer) -> None:
        model, block = key
        pin = block in self.plan.pinned[model]
        buffer.in_use = False
        buffer.arrival = self._feeder.deliver(key, slab, buffer.memory, buffer.unused_from, pin=pin)

    def _send_outside(self, model: int) -> None:
        """Sends off what lies outside of a model's blocks, into the other's place if need be."""
        if model in self._outsides:
            return
        if len(self._outsides) < self.plan.outsides:
            buffer = new_buffer(self._device, self._outside_bytes)
        else:
            buffer = self._outsides.pop(next(iter(self._outsides)))
            buffer.clear()
        self._outsides[model] = buffer
        self._send((model, OUTSIDE), self._models[model].outside, buffer)

    # Memory

    def apply(self, plan: Plan) -> None:
        """Follows another plan; gives back what it does not need."""
        before, previous = self.device_bytes, self.plan
        self.plan = plan
        if plan.placement == previous.placement:
            return
        self._orderly = False
        self._turn_to(self._active)
        self._pool.shrink(plan.buffers)
        if len(self._outsides) > plan.outsides:
            self._drop_outsides(lambda model, _: model != self._active)
        pinned = {(m, block) for m, blocks in enumerate(plan.pinned) for block in blocks}
        self._feeder.limit(plan.ring_bytes, pinned)
        if self.device_bytes < before:
            self._settle()

    def forget(self, model: int) -> None:
        """Drops what is on the device, or under way, of one model."""
        self._pool.release(lambda key, _: key[0] == model)
        self._drop_outsides(lambda other, _: other == model)
        self._orderly = False

    def replace(self, model: int) -> None:
        """Drops all of a model whose slabs are others from now on, and buffers of a wrong size."""
        self.forget(model)
        others = {(m, b) for m, blocks in enumerate(self.plan.pinned) for b in blocks if m != model}
        self._feeder.limit(self.plan.ring_bytes, others)
        if (self._slab_bytes, self._outside_bytes) != self._largest:
            self.unload()
            self._slab_bytes, self._outside_bytes = self._largest
            self._pool = BufferPool(self._device, self._slab_bytes)

    def unload(self) -> None:
        """Gives the device's memory back."""
        self._pool.release(lambda *_: True)
        self._pool.shrink(0)
        self._drop_outsides(lambda *_: True)
        self._orderly = False
        self._settle()

    def release_pinned(self) -> None:
        """Gives pinned host memory back."""
        self._feeder.release()

    @property
    def pinned_bytes(self) -> int:
        """Host memory held."""
        return self._feeder.pinned_bytes

    @property
    def device_bytes(self) -> int:
        """The device's memory held, free buffers included."""
        return len(self._outsides) * self._outside_bytes + len(self._pool) * self._slab_bytes

    @property
    def _largest(self) -> tuple[int, int]:
        """Bytes of the largest slab of a block, and of what lies outside of the blocks."""
        outsides = (model.outside.layout.nbytes for model in self._models)
        return max(model.slab_bytes for model in self._models), max(outsides)

    def _drop_outsides(self, unwanted: Callable[[int, Buffer], bool]) -> None:
        for model in [m for m, buffer in self._outsides.items() if unwanted(m, buffer)]:
            self._outsides.pop(model).clear()

    def _settle(self) -> None:
        """Makes sure that memory given up is with the system again."""
        # A delivery under way still holds its buffer.
        self._feeder.drain()
        self._device.empty_cache()
