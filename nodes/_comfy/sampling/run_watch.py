"""What a run takes: each step while it runs, and a report that stays."""

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch

from ..host.listener import Listener, listener

EVENT = "wanduet.step"
GIB = 2**30
NAMES = {
    "start": "First steps",
    "high": "High-noise expert",
    "low": "Low-noise expert",
    "only": "Model",
}


@dataclass
class RunWatch:
    """Times one run by the calls after its steps."""

    experts: list[str]
    """Of each step: a key of `NAMES`."""
    device: torch.device
    page: Listener | None = field(default_factory=listener)
    began: float = field(default_factory=time.monotonic)
    loaded: float | None = None
    ends: list[float] = field(default_factory=list)
    """When each step was over."""
    ram: int = 0
    vram: int = 0
    vram_before: int = 0

    def __post_init__(self) -> None:
        self.vram_before = self._most_vram()

    def start(self) -> None:
        """The first model is where it computes; steps follow."""
        self.loaded = time.monotonic()

    def step(self) -> None:
        """A step is over: looks at memory, and tells the client."""
        self.ends.append(time.monotonic())
        self.ram = max(self.ram, psutil.Process().memory_info().rss)
        if self.device.type == "cuda":
            self.vram = max(self.vram, torch.cuda.memory_reserved(self.device))
        if self.page is not None:
            self.page.send(EVENT, self.progress())

    def progress(self) -> dict[str, Any]:
        """Returns {"step", "total", "elapsed", "left", "pace": {expert: seconds per step}}."""
        pace = self.pace()
        known = list(pace.values())[-1] if pace else 0.0
        waiting = self.experts[len(self.ends) :]
        return {
            "step": len(self.ends),
            "total": max(len(self.experts), len(self.ends)),
            "elapsed": time.monotonic() - self.began,
            "left": sum(pace.get(expert, known) for expert in waiting),
            "pace": pace,
        }

    def pace(self) -> dict[str, float]:
        """Returns the usual seconds per step of each expert that has run."""
        return {expert: statistics.median_low(each) for expert, each in self._by_expert().items()}

    def settled_pace(self) -> dict[str, float]:
        """Returns the mean seconds per step of each expert, skipped ones too, without its first.

        That one fetches weights and makes kernels. Experts of one step are left out.
        """
        later = {expert: each[1:] for expert, each in self._by_expert().items()}
        return {expert: statistics.fmean(each) for expert, each in later.items() if each}

    def report(self) -> list[str]:
        """Returns what is to be said when the run is over."""
        spent, pace = self._spent(), self.pace()
        total = max(len(self.experts), len(spent))
        lines = [f"{len(spent)} of {total} steps in {clock(self._end() - self.began)}"]
        if self.loaded is not None and self.loaded - self.began >= 0.05:
            lines.append(f"Loading: {clock(self.loaded - self.began)}")
        for expert, seconds in self._by_expert().items():
            steps = "1 step" if len(seconds) == 1 else f"{len(seconds)} steps"
            lines.append(
                f"{NAMES[expert]}: {steps}, {pace[expert]:.2f} s each, {clock(sum(seconds))}"
            )
        return [*lines, self._memory()]

    def _by_expert(self) -> dict[str, list[float]]:
        """Returns the seconds of each step so far; solvers that choose their steps take more."""
        more = len(self.ends) - len(self.experts)
        ran = [*self.experts[: len(self.ends)], *self.experts[-1:] * more]
        seconds: dict[str, list[float]] = {}
        for expert, spent in zip(ran, self._spent(), strict=True):
            seconds.setdefault(expert, []).append(spent)
        return seconds

    def _spent(self) -> list[float]:
        starts = [self.loaded or self.began, *self.ends]
        return [end - start for start, end in zip(starts, self.ends, strict=False)]

    def _end(self) -> float:
        return self.ends[-1] if self.ends else time.monotonic()

    def _memory(self) -> str:
        ram = f"{self.ram / GIB:.1f} GiB RAM"
        if self.device.type != "cuda":
            return f"Peak: {ram}"
        # The allocator's own peak counts only where this run raised it; else what steps ended with.
        most = self._most_vram()
        vram = most if most > self.vram_before else self.vram
        return f"Peak: {vram / GIB:.1f} GiB VRAM, {ram}"

    def _most_vram(self) -> int:
        if self.device.type != "cuda":
            return 0
        return torch.cuda.max_memory_reserved(self.device)


def clock(seconds: float) -> str:
    """Returns a duration as people write it: 4.2 s, 1:32."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"
