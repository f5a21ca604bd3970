"""Where the weights of one or two experts are kept, decided before a run. Arithmetic only.

The device holds equal buffers, each large enough for one block. *Resident* blocks keep theirs while
their expert is in use; all others are *streamed* through the remaining buffers, the slots. Copies
run beside the computation, so streaming costs nothing as long as a block computes longer than it
travels, and evenly spread resident blocks give each streamed one more time.
"""

import math
from dataclasses import dataclass, field, replace

from ..errors import MemoryLimitError, SettingsError

GIB, MIB = 1 << 30, 1 << 20

DEFAULT_PINNED_BYTES = 4 * GIB
"""What pinned memory may take by default. All other weights are reclaimable file cache."""

RING_BYTES = 256 * MIB
"""Pinned buffers that weights pass through on their way from the file cache."""

MARGIN_PART = 16
"""Of the memory that may be used: what is left free, each time that a plan was too large."""

DEFAULT_SLOTS = 3
"""One block computes, one is there, one is on its way."""


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """Bytes of one expert; of the larger one if two differ."""

    blocks: int
    block_bytes: int
    """Of the largest block, as a slab."""
    outside_bytes: int
    """Of embeddings and head."""
    experts: int = 1


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the computer has left, and how fast it moves bytes (per second)."""

    free_vram_bytes: int
    """For weights and activations together, without what others need."""
    free_ram_bytes: int
    copy_rate: float = 20e9
    """From pinned memory to the device."""
    read_rate: float = 8e9
    """From the file cache to pinned memory."""
    disk_rate: float = 2e9


@dataclass(frozen=True, kw_only=True)
class Work:
    """One forward pass."""

    activation_bytes: int
    """What a pass needs at its peak, beside the weights."""
    block_seconds: float
    """Computation of one block."""
    slack_bytes: int = 0
    """What stays free beside them: memory that the device's allocator holds and cannot use."""
    run_bytes: int = 0
    """What a run takes once, beside its passes: latents of a video longer than a pass sees."""

    @property
    def video_bytes(self) -> int:
        """Bytes of the video, at the peak of a pass."""
        return self.activation_bytes + self.run_bytes


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a person decided; None leaves it to the planner. Given values are never changed."""

    blocks_to_swap: int | None = None
    vram_budget_bytes: int | None = None
    pinned_ram_bytes: int | None = None
    prefetch_blocks: int | None = None
    """How many blocks ahead of the running one are fetched."""

    def shared(self, processes: int, free_ram_bytes: int) -> "Limits":
        """Returns the limits of each of some processes that read the same files on one computer.

        What is pinned is a process' own, all else of the files is in memory once for all.

        Args:
            processes: how many there are.
            free_ram_bytes: before they begin.
        """
        pinned = self.pinned_ram_bytes
        if pinned is None:
            pinned = min(DEFAULT_PINNED_BYTES, free_ram_bytes // 4)
        return replace(self, pinned_ram_bytes=pinned // processes)

    def check(self, blocks: int) -> None:
        """Refuses what no model of so many blocks can be given.

        Raises:
            SettingsError: names the limit and its range.
        """
        ranges = (
            ("blocks_to_swap", self.blocks_to_swap, 0, blocks),
            ("vram_budget_bytes", self.vram_budget_bytes, 1, None),
            ("pinned_ram_bytes", self.pinned_ram_bytes, 0, None),
            ("prefetch_blocks", self.prefetch_blocks, 0, blocks),
        )
        for name, value, low, high in ranges:
            if value is not None and not low <= value <= (math.inf if high is None else high):
                need = f"at least {low}" if high is None else f"{low} to {high}"
                raise SettingsError(f"{name} cannot be used. Got {value}, need {need}. Change it.")


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """Everything a plan follows from."""

    sizes: ModelSizes
    machine: Machine
    work: Work
    limits: Limits = field(default_factory=Limits)

    @property
    def limit_bytes(self) -> int:
        """VRAM that may be used."""
        budget = self.limits.vram_budget_bytes
        free = self.machine.free_vram_bytes
        return free if budget is None else min(budget, free)

    @property
    def usable_bytes(self) -> int:
        """VRAM that the peak of a plan may take: of what is free, the slack is left."""
        if self.limits.blocks_to_swap is not None:
            return self.limit_bytes
        return min(self.limit_bytes, self.machine.free_vram_bytes - self.work.slack_bytes)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A decision, and what it is predicted to cost."""

    request: PlanRequest
    resident: tuple[int, ...]
    """Blocks that stay on the device, of the expert that runs."""
    kept: tuple[int, ...]
    """Blocks that stay on the device, of the expert that waits."""
    slots: int
    """Buffers that streamed blocks pass through."""
    outsides: int
    """How many experts' embeddings and heads are on the device: one, or both."""
    pinned: tuple[tuple[int, ...], ...]
    """Per expert, the blocks that stay in pinned RAM."""
    ring_bytes: int
    """Pinned memory that all others pass through."""

    @property
    def placement(self) -> tuple[object, ...]:
        """What is where, without the reasons; plans of one placement can be exchanged."""
        return (self.resident, self.kept, self.slots, self.outsides, self.pinned, self.ring_bytes)

    @property
    def buffers(self) -> int:
        """Buffers of one block each on the device."""
        return len(self.resident) + len(self.kept) + self.slots

    @property
    def streamed(self) -> int:
        """Blocks that travel in every forward pass."""
        return self.request.sizes.blocks - len(self.resident)

    @property
    def margin_bytes(self) -> int:
        """What to leave free if memory ran out with this plan."""
        return self.request.limit_bytes // MARGIN_PART

    @property
    def weight_bytes(self) -> int:
        """Predicted VRAM of the weights."""
        sizes = self.request.sizes
        return self.buffers * sizes.block_bytes + self.outsides * sizes.outside_bytes

    @property
    def peak_bytes(self) -> int:
        """Predicted VRAM at the peak of a forward pass."""
        return self.weight_bytes + self.request.work.video_bytes

    @property
    def pinned_bytes(self) -> int:
        """Predicted pinned RAM, the only RAM that the system cannot take back."""
        blocks = sum(len(blocks) for blocks in self.pinned)
        return blocks * self.request.sizes.block_bytes + self.ring_bytes

    @property
    def seconds(self) -> float:
        """Predicted duration of one forward pass, once resident blocks are there."""
        return max(self.compute_seconds, self.copy_seconds, self.read_seconds)

    @property
    def compute_seconds(self) -> float:
        """What the device computes in one forward pass."""
        return self.request.sizes.blocks * self.request.work.block_seconds

    @property
    def copy_seconds(self) -> float:
        """What the copies to the device take in one forward pass."""
        return self.streamed * self.request.sizes.block_bytes / self.request.machine.copy_rate

    @property
    def read_seconds(self) -> float:
        """What reading takes in one forward pass, of blocks that are not pinned."""
        machine = self.request.machine
        pinned = min((len(blocks) for blocks in self.pinned), default=0)
        rate = machine.read_rate if self.fits_ram else machine.disk_rate
        return max(0, self.streamed - pinned) * self.request.sizes.block_bytes / rate

    @property
    def fits_ram(self) -> bool:
        """Whether the files of all experts can stay in the file cache."""
        sizes = self.request.sizes
        files = sizes.experts * (sizes.blocks * sizes.block_bytes + sizes.outside_bytes)
        return files + self.pinned_bytes <= self.request.machine.free_ram_bytes

    def describe(self, passes: int | None = None) -> str:
        """Returns one line for people.

        Args:
            passes: forward passes in one step; None if that is not known.
        """
        blocks = self.request.sizes.blocks
        placed = f"all {blocks} blocks resident"
        if self.streamed:
            placed = f"{self.streamed} of {blocks} blocks streamed"
        seconds, per = (passes or 1) * self.seconds, "forward pass" if passes is None else "step"
        return (
            f"{placed}, peak {self.peak_bytes / GIB:.1f} of {self.request.limit_bytes / GIB:.1f} "
            f"GiB, RAM {self.pinned_bytes / GIB:.1f} GiB pinned, about {seconds:.1f} s per {per}"
        )

    def __str__(self) -> str:
        """For logs."""
        return self.describe()


def make_plan(request: PlanRequest) -> Plan:
    """Returns the fastest plan within the limits.

    Raises:
        SettingsError: for a limit out of range.
        MemoryLimitError: if not even two blocks fit beside the activations, or what a person
            asked for does not.
    """
    sizes, limits = request.sizes, request.limits
    limits.check(sizes.blocks)
    room = request.usable_bytes - request.work.video_bytes - sizes.outside_bytes
    wanted_slots = DEFAULT_SLOTS if limits.prefetch_blocks is None else limits.prefetch_blocks + 1
    room_blocks = room // sizes.block_bytes
    if limits.blocks_to_swap is not None:
        resident = sizes.blocks - limits.blocks_to_swap
        slots = min(wanted_slots, limits.blocks_to_swap)
        if limits.prefetch_blocks is None:
            slots = min(slots, max(2, room_blocks - resident))
    elif room_blocks >= sizes.blocks:
        resident, slots = sizes.blocks, 0
    else:
        slots = min(wanted_slots, sizes.blocks)
        if limits.prefetch_blocks is None:
            slots = min(slots, max(2, room_blocks))
        resident = max(0, room_blocks - slots)
    plan = _place(request, resident, 0, slots, 1)
    if plan.peak_bytes > request.usable_bytes:
        raise _does_not_fit(plan)
    return _with_waiting_expert(plan, request.usable_bytes - plan.peak_bytes)


def lowered(plan: Plan, nbytes: int) -> Plan:
    """Returns a plan whose weights take at least `nbytes` less, or else the smallest one.

    The waiting expert gives way first, then resident blocks, then the slots beyond two.
    """
    sizes = plan.request.sizes
    counts = [len(plan.kept), len(plan.resident), plan.slots, plan.outsides]
    target = plan.weight_bytes - nbytes

    def build() -> Plan:
        kept, resident, slots, outsides = counts
        # Blocks that are no longer resident need slots to pass through.
        slots = min(slots or 2, sizes.blocks - resident)
        return _place(plan.request, resident, kept, slots, outsides)

    for which, least in ((0, 0), (3, 1), (1, 0), (2, 2)):
        while counts[which] > least and build().weight_bytes > target:
            counts[which] -= 1
    return build()


def smallest(plan: Plan) -> Plan:
    """Returns the plan that takes the least VRAM."""
    return lowered(plan, plan.weight_bytes)


def spread(count: int, total: int) -> tuple[int, ...]:
    """Returns `count` of `total` numbers at equal distances on a ring."""
    return tuple(((2 * i + 1) * total) // (2 * count) for i in range(count))


def resident_blocks(resident: int, blocks: int) -> tuple[int, ...]:
    """Returns the resident blocks such that the others are spread evenly."""
    streamed = set(spread(blocks - resident, blocks))
    return tuple(i for i in range(blocks) if i not in streamed)


def _with_waiting_expert(plan: Plan, room_bytes: int) -> Plan:
    """Keeps of the other expert what there is room for: its embeddings, then its first blocks."""
    sizes = plan.request.sizes
    if sizes.experts < 2 or room_bytes < sizes.outside_bytes:
        return plan
    kept = 0
    if not plan.streamed:
        kept = min(sizes.blocks, (room_bytes - sizes.outside_bytes) // sizes.block_bytes)
    return _place(plan.request, len(plan.resident), kept, plan.slots, 2)


def _place(request: PlanRequest, resident: int, kept: int, slots: int, outsides: int) -> Plan:
    """Names the blocks for the given counts."""
    plan = Plan(
        request=request,
        resident=resident_blocks(resident, request.sizes.blocks),
        kept=tuple(range(kept)),
        slots=slots,
        outsides=outsides,
        pinned=((),) * request.sizes.experts,
        ring_bytes=RING_BYTES,
    )
    return _pin(plan)


def _pin(plan: Plan) -> Plan:
    """Chooses the blocks that stay in pinned RAM: none if reading is not what others wait for."""
    request = plan.request
    sizes, pinned_limit = request.sizes, request.limits.pinned_ram_bytes
    ring = RING_BYTES if pinned_limit is None else min(RING_BYTES, pinned_limit)
    plan = replace(plan, ring_bytes=ring)
    if not plan.streamed:
        return plan
    if pinned_limit is None:
        if plan.read_seconds <= max(plan.compute_seconds, plan.copy_seconds):
            return plan
        pinned_limit = min(DEFAULT_PINNED_BYTES, request.machine.free_ram_bytes // 4)
    count = max(0, pinned_limit - ring) // sizes.block_bytes
    streamed = [i for i in range(sizes.blocks) if i not in set(plan.resident)]
    shares = [count // sizes.experts + (e < count % sizes.experts) for e in range(sizes.experts)]
    pinned = tuple(
        tuple(streamed[i] for i in spread(min(share, len(streamed)), len(streamed)))
        for share in shares
    )
    return replace(plan, pinned=pinned)


def _does_not_fit(plan: Plan) -> MemoryLimitError:
    """Says what is missing, and what helps, the easiest first."""
    request, limits = plan.request, plan.request.limits
    allowed, free = request.limit_bytes, request.machine.free_vram_bytes
    slack, least = request.work.slack_bytes, smallest(plan)
    advice, changed = [], []
    if limits.blocks_to_swap is not None and least.peak_bytes + slack <= allowed:
        fitting = make_plan(replace(request, limits=replace(limits, blocks_to_swap=None)))
        advice.append(f"leave blocks_to_swap open, or make it {fitting.streamed} or more")
        changed.append("blocks_to_swap")
    if limits.prefetch_blocks is not None and plan.slots > 2:
        advice.append("leave prefetch_blocks open")
        changed.append("prefetch_blocks")
    if allowed < least.peak_bytes <= free - slack:
        needed = f"{math.ceil(10 * least.peak_bytes / GIB) / 10:.1f} GiB"
        advice.append(f"leave the VRAM budget open, or make it {needed} or more")
        changed.append("vram_budget_bytes")
    advice += ["close other programs that use the GPU", _shorten(least)]
    kind = "free" if allowed == free else "allowed by the VRAM budget"
    left = "" if allowed == request.usable_bytes else f", {slack / GIB:.2f} to be left free"
    return MemoryLimitError(
        f"The video does not fit into the GPU's memory. Got {allowed / GIB:.2f} GiB {kind}, "
        f"need {(plan.peak_bytes + bool(left) * slack) / GIB:.2f} GiB: "
        f"{request.work.video_bytes / GIB:.2f} for the video at this size and length, "
        f"{plan.weight_bytes / GIB:.2f} for the part of the model that is there at a time "
        f"({plan.buffers} of {request.sizes.blocks} blocks){left}. Try in this order: "
        f"{'; '.join(advice)}.",
        limits=tuple(changed),
    )


def _shorten(least: Plan) -> str:
    """Says how much smaller a video would have to be. Its memory grows with its pixels."""
    work, advice = least.request.work, "make the video shorter or smaller"
    if work.run_bytes:
        advice = "make the context windows shorter or the video smaller"
    room = least.request.usable_bytes - least.weight_bytes - work.run_bytes
    percent = 100 * room // max(1, work.activation_bytes)
    return f"{advice}: about {percent} % of its pixels would fit" if 0 < percent < 100 else advice
