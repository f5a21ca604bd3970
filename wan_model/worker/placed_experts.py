"""Experts of a process that does nothing else: when a plan is made, and what it follows from."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch

from ..dit import WanDiT
from ..dit.pass_time import DeviceRates, block_seconds
from ..dit.stage_choice import FastestStages
from ..host_memory import available_bytes
from ..offload import (
    AllocatorSlack,
    Extra,
    HostModel,
    Limits,
    Machine,
    OffloadEngine,
    PlanRequest,
    Runner,
    Work,
    lowered,
    measure_copy,
    measure_read,
    open_device,
    sizes_of,
)

T = TypeVar("T")

RESERVED_BYTES = 512 << 20
"""Of a GPU's memory: for what NCCL takes, and libraries when they are first used."""

Size = tuple[int, int, int]
"""Latent frames, height and width."""


class PlacedExperts:
    """Experts whose weights an engine brings to one device, planned for a video's size.

    Attributes:
        stages: of their blocks.
    """

    def __init__(
        self,
        hosts: Sequence[HostModel],
        device: torch.device,
        limits: Limits,
        shortages: int = 0,
    ) -> None:
        """Takes nothing of the device yet.

        Args:
            hosts: with equal numbers of blocks.
            device: that computes.
            limits: of its memory.
            shortages: how often processes before this one ran out of memory with their plans.

        Raises:
            SettingsError: if a limit cannot be met by these models.
        """
        limits.check(len(hosts[0].blocks))
        self._hosts, self._limits, self._device = tuple(hosts), limits, device
        self._queues = open_device(device)
        self._slack, self._shortages = AllocatorSlack(device), shortages
        self._rates: tuple[float, float, DeviceRates] | None = None
        self.stages = FastestStages(self.dit(0).precision)
        self._engine: OffloadEngine | None = None
        self._planned: tuple[Size, int] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        return sum(host.nbytes for host in self._hosts)

    @property
    def device_bytes(self) -> int:
        """Bytes taken on the device."""
        return 0 if self._engine is None else self._engine.device_bytes

    def dit(self, expert: int) -> WanDiT:
        """Returns an expert's transformer."""
        module = self._hosts[expert].module
        assert isinstance(module, WanDiT)
        return module

    def run(
        self,
        expert: int,
        size: Size,
        ranks: int,
        forward: Callable[[Runner], T],
        runner: Runner,
    ) -> T:
        """Runs a forward pass of one sample; see `OffloadEngine.run`.

        Args:
            expert: number of it.
            size: of the latent.
            ranks: that share its tokens.
            forward: what to run.
            runner: runs blocks in place.

        Raises:
            MemoryLimitError: if the video does not fit.
        """
        if self._planned != (size, ranks):
            plan = self._slack.plan(self._request(size, ranks))
            if self._shortages:
                plan = lowered(plan, self._shortages * plan.margin_bytes)
            if self._engine is None:
                self._engine = OffloadEngine(self._hosts, plan, self._queues)
            elif self._engine.plan.placement != plan.placement:
                self._engine.apply(plan)
            self._planned = (size, ranks)
        assert self._engine is not None
        return self._engine.run(expert, forward, runner, repeats=False)

    def pass_seconds(self, size: Size) -> float:
        """Returns the estimated computation of a pass of one sample, alone."""
        frames, height, width = size
        dit, tokens = self.dit(0), frames * (height // 2) * (width // 2)
        if self._rates is None:
            self._rates = self._measured()
        stages = self.stages.kind(dit.blocks, self._device)
        return len(dit.blocks) * block_seconds(dit, 1, tokens, self._rates[2], stages)

    def expect(self, expert: int, after: int) -> None:
        """Announces the expert that runs after so many more forward passes."""
        if self._engine is not None and after > 0:
            self._engine.prefetch(expert, after)

    def carry(self, expert: int, extras: Mapping[int | None, Sequence[Extra]]) -> None:
        """Has other tensors travel with an expert's own."""
        if self._engine is None:
            self._hosts[expert].carry(extras)
        else:
            self._engine.carry(expert, extras)
        self._planned = None

    def release(self) -> None:
        """Gives all memory back, of the device and pinned."""
        if self._engine is not None:
            self._engine.unload()
            self._engine.release_pinned()
        self._planned = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _request(self, size: Size, ranks: int) -> PlanRequest:
        if self._rates is None:
            self._rates = self._measured()
        copy_rate, read_rate, device_rates = self._rates
        dit, (frames, height, width) = self.dit(0), size
        stages = self.stages.kind(dit.blocks, self._device)
        nbytes = dit.activation_bytes(1, frames, height, width, stages)
        tokens = frames * (height // 2) * (width // 2)
        if ranks > 1:
            # Beside a part of all else, the tokens of all ranks, before and after the blocks.
            nbytes = nbytes // ranks + 2 * tokens * dit.config.dim * torch.float32.itemsize
        seconds = block_seconds(dit, 1, tokens, device_rates, stages) / ranks
        return PlanRequest(
            sizes=sizes_of(self._hosts),
            machine=Machine(
                free_vram_bytes=self.free_bytes() + self.device_bytes,
                free_ram_bytes=available_bytes(),
                copy_rate=copy_rate,
                read_rate=read_rate,
            ),
            work=Work(
                activation_bytes=nbytes, block_seconds=seconds, slack_bytes=self._slack.of(nbytes)
            ),
            limits=self._limits,
        )

    def _measured(self) -> tuple[float, float, DeviceRates]:
        device = DeviceRates.measured(self._device, self.dit(0).precision.compute_dtype)
        return measure_copy(self._queues), measure_read(self._hosts[0].slabs[0]), device

    def free_bytes(self) -> int:
        """Returns what can be taken on the device."""
        if self._device.type != "cuda":
            return available_bytes()
        cached = torch.cuda.memory_reserved(self._device)
        cached -= torch.cuda.memory_allocated(self._device)
        return torch.cuda.mem_get_info(self._device)[0] + cached - RESERVED_BYTES
