"""The weights of one or two experts on one device: when a plan is made, and what it follows from.

Two experts of one loader share an engine: its buffers, its budget and its threads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import comfy.model_management
import torch
from torch import Tensor

from ....wan_model.dit.activation_memory import StageKind
from ....wan_model.dit.pass_time import DeviceRates, block_seconds
from ....wan_model.offload import (
    AllocatorSlack,
    HostModel,
    Limits,
    Machine,
    OffloadEngine,
    Pace,
    Plan,
    PlanRequest,
    ReadAhead,
    Runner,
    Stopwatch,
    Work,
    measure_copy,
    measure_read,
    open_device,
    sizes_of,
)
from ..host import runtime
from ..host.kernel_cache import kernels_kept
from .arrival import ArrivalPatches
from .low_rank import Patches
from .window_work import RunBytes

if TYPE_CHECKING:
    from .comfy_dit import ComfyWanDiT

RAM_TO_LEAVE = 4 << 30
"""What reading ahead leaves of the free RAM: for the text encoder that runs meanwhile."""

SETTLED_PART = 1 / 20
"""Of the blocks: what a new plan has to gain to be worth moving weights for."""

STEP_BYTES = 128 << 20
"""What is left free beyond the usual after a pass for which the allocator emptied its cache."""

NOTHING = RunBytes()
"""Beside passes that see the whole video."""

Shape = Sequence[int]
"""(B, C, T, H, W) of a latent."""


@dataclass(frozen=True)
class _Rates:
    """What this computer does per second."""

    copy_bytes: float
    read_bytes: float
    device: DeviceRates


class ExpertPool:
    """An engine, and the plan it needs for what is sampled next.

    Attributes:
        heading: what the running node says above the plan.
        step_passes: by expert, forward passes in one step; None while that is not known.
        passes: forward passes so far.
        under_way: whether most of what the running video takes beside forward passes is on this
            device already.
    """

    def __init__(self, models: Sequence[HostModel], device: torch.device, limits: Limits) -> None:
        """Takes nothing of the device yet.

        Args:
            models: the experts, with equal numbers of blocks.
            device: that computes.
            limits: what a person decided.

        Raises:
            SettingsError: if a limit cannot be met by these models.
        """
        self.heading = ""
        self.step_passes: list[int | None] = [None] * len(models)
        self.passes = 0
        self.under_way = False
        self._hosts = tuple(models)
        self._limits = limits
        self._ahead: ReadAhead | None = None
        self._open(device)
        limits.check(len(models[0].blocks))

    def _open(self, device: torch.device) -> None:
        self._torch_device = device
        self._device = open_device(device)
        self._patches = ArrivalPatches(len(self._hosts), device)
        self._rates: _Rates | None = None
        self._slack = AllocatorSlack(device)
        self._settled = False
        self._pace = Pace()
        self._estimated_seconds = 0.0
        self._engine: OffloadEngine | None = None

    def move(self, device: torch.device) -> None:
        """Has a device compute from now on; memory of the one before is given back."""
        if device == self._torch_device:
            return
        self.release()
        for host in self._hosts:
            host.carry({})
        self._open(device)

    def read_ahead(self, files: Sequence[Path]) -> None:
        """Has the files read into the file cache, as far as there is room, until they are used.

        Args:
            files: of the experts, those that run first come first.
        """
        room = runtime.free_ram_bytes() - RAM_TO_LEAVE
        self._ahead = ReadAhead(files, room, runtime.is_interrupted)

    def _stop_reading_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead.stop()

    @property
    def nbytes(self) -> int:
        """Bytes of all weights of all experts."""
        return sum(model.nbytes for model in self._hosts)

    @property
    def device_bytes(self) -> int:
        """Bytes of the device's memory that are taken."""
        return 0 if self._engine is None else self._engine.device_bytes

    @kernels_kept()
    def prepare(
        self,
        expert: int,
        shape: Shape | None,
        *,
        beside_bytes: RunBytes = NOTHING,
        compiled: bool = False,
    ) -> None:
        """Plans for a latent's shape, shows the plan, and begins to fetch an expert.

        Args:
            expert: number of it.
            shape: of the latent that a pass sees; None if that is not known.
            beside_bytes: what the run takes beside its passes.
            compiled: whether its blocks' stages are.

        Raises:
            MemoryLimitError: if the video does not fit.
        """
        self._stop_reading_ahead()
        pace = self._pace.factor
        with runtime.on_device(self._torch_device):
            request = self._request(expert, shape, pace, compiled=compiled)
        coming = beside_bytes.later if self.under_way else beside_bytes.whole
        request = replace(request, work=replace(request.work, run_bytes=coming))
        plan = self._slack.plan(request)
        self._settled = False
        self._estimated_seconds = plan.compute_seconds / pace
        if self._engine is None:
            self._engine = OffloadEngine(self._hosts, plan, self._device, self._patches)
        elif not still_good(self._engine.plan, plan):
            self._engine.apply(plan)
        now = replace(self._engine.plan, request=plan.request)
        text = now.describe(self.step_passes[expert])
        runtime.show(runtime.running_node(), text, heading=self.heading)
        self._engine.prefetch(expert, after=0)

    def run(self, expert: int, forward: Callable[[Runner], Tensor], runner: Runner) -> Tensor:
        """Runs a forward pass of an expert; see `OffloadEngine.run`."""
        if self._engine is None:
            self.prepare(expert, None)
        assert self._engine is not None
        self.passes += 1
        plan = self._engine.plan
        shortages = self._slack.shortages
        watch = Stopwatch(self._torch_device)
        out = self._engine.run(expert, forward, runner)
        watch.stop()
        if plan.compute_seconds == plan.seconds:
            self._pace.add(watch, self._estimated_seconds)
        activations = plan.request.work.activation_bytes
        if self._engine.plan is not plan:
            # Memory ran out, so the video takes more than was thought.
            self._slack.add(activations, plan.margin_bytes)
        elif self._settled and self._slack.shortages > shortages:
            self._slack.add(activations, STEP_BYTES)
        # What a first pass finds in the allocator's cache is of others.
        self._settled = True
        return out

    def check_files(self, expert: int) -> None:
        """Refuses files that were written to since they were opened.

        Raises:
            CheckpointError: names the file.
        """
        self._hosts[expert].check_files()

    def expect(self, expert: int, after: int) -> None:
        """Announces the expert that runs after so many more forward passes."""
        if self._engine is not None:
            self._engine.prefetch(expert, after)

    def set_patches(self, expert: int, active: Patches, waiting: Patches) -> None:
        """Takes an expert's patches from now on; what has others merged in is fetched anew.

        Args:
            expert: number of it.
            active: patches by key.
            waiting: patches that may become active during a run.
        """
        module = self._hosts[expert].module
        news = self._patches.set(expert, module, active, waiting)
        if news.operands:
            extras = self._patches.extras(expert, module)
            if self._engine is None:
                self._hosts[expert].carry(extras)
            else:
                self._engine.carry(expert, extras)
        elif news.merged and self._engine is not None:
            self._engine.refresh(expert)

    def shrink(self, nbytes: int) -> int:
        """Gives back memory of the device; returns how much."""
        return 0 if self._engine is None else self._engine.shrink(nbytes)

    def release(self) -> None:
        """Gives back all memory, of the device and pinned."""
        self._stop_reading_ahead()
        if self._engine is not None:
            self._engine.unload()
            self._engine.release_pinned()

    def _request(
        self, expert: int, shape: Shape | None, pace: float, *, compiled: bool
    ) -> PlanRequest:
        # First, since kernels take memory of their own when they are used for the first time.
        if self._rates is None:
            self._rates = self._measured()
        free = runtime.spare_bytes(self._torch_device)
        return PlanRequest(
            sizes=sizes_of(self._hosts),
            machine=Machine(
                free_vram_bytes=free + self.device_bytes,
                free_ram_bytes=runtime.free_ram_bytes(),
                copy_rate=self._rates.copy_bytes,
                read_rate=self._rates.read_bytes,
            ),
            work=self._work(expert, shape, pace, compiled=compiled),
            limits=self._limits,
        )

    def _work(self, expert: int, shape: Shape | None, pace: float, *, compiled: bool) -> Work:
        assert self._rates is not None
        dit = self._dit(expert)
        if shape is None:
            nbytes = int(comfy.model_management.minimum_inference_memory())
            return Work(activation_bytes=nbytes, block_seconds=0)
        batch, _, frames, height, width = shape
        stages: StageKind = (
            "compiled" if compiled else dit.stages.kind(dit.blocks, self._torch_device)
        )
        nbytes = dit.activation_bytes(batch, frames, height, width, stages)
        nbytes += self._patches.workspace_bytes(dit, expert)
        tokens = frames * ((height + 1) // 2) * ((width + 1) // 2)
        return Work(
            activation_bytes=nbytes,
            block_seconds=pace * block_seconds(dit, batch, tokens, self._rates.device, stages),
            slack_bytes=self._slack.of(nbytes),
        )

    def _measured(self) -> _Rates:
        dtype = self._dit(0).precision.compute_dtype
        return _Rates(
            copy_bytes=measure_copy(self._device),
            read_bytes=measure_read(self._hosts[0].slabs[0]),
            device=DeviceRates.measured(self._torch_device, dtype),
        )

    def _dit(self, expert: int) -> "ComfyWanDiT":
        return cast("ComfyWanDiT", self._hosts[expert].module)


def still_good(plan: Plan, new: Plan) -> bool:
    """Whether a plan in use can stay: it fits, and another would hardly be faster.

    In the middle of a run, at the switch of experts, a few tensors more are on the device than
    before it. They may take half of the slack: no reason to stop and to move weights.
    """
    if plan.placement == new.placement:
        return False
    slack = 0 if new.request.limits.blocks_to_swap is not None else SETTLED_PART
    gain = plan.streamed - new.streamed + len(new.kept) - len(plan.kept)
    work = new.request.work
    return (
        plan.request.work.activation_bytes == work.activation_bytes
        and plan.weight_bytes + work.video_bytes + work.slack_bytes // 2 <= new.request.limit_bytes
        and gain <= slack * new.request.sizes.blocks
    )
