"""Which missing attention kernel would make a GPU faster, by how much, and how to get it."""

from dataclasses import dataclass

from ..gpu_classes import GpuClass, gpu_class
from .auto import DEFAULT, MAX_ERROR
from .backend import Backend, Platform, UnavailableError
from .registry import BACKENDS

WORTHWHILE = 1.08
"""How many times as fast as what is there a missing kernel has to be to be mentioned."""

MATMUL_TFLOP, ATTENTION_TFLOP = 1807, 4714
"""Of one forward pass of A14B at 1280x720, 81 frames."""


@dataclass(frozen=True)
class Advice:
    """One kernel that is missing."""

    backend: Backend
    gain: float
    """How many times as fast as what is there it attends."""
    pass_part: float
    """What a pass of A14B at 720p and 81 frames would take, of what it takes, in 16 bit."""
    gpus: GpuClass

    @property
    def exact(self) -> bool:
        """Whether it is as exact as 16 bit allows."""
        return self.backend.nominal_error <= MAX_ERROR

    def __str__(self) -> str:
        """For people, a sentence."""
        exact = "as exact as now" if self.exact else "in 8 bit, so coarser"
        return (
            f"{self.backend.label} is not there, which attends {self.gain:.1f} times as fast on "
            f"{self.gpus.name} ({self.gpus.source}), {exact}: about {1 - self.pass_part:.0%} less "
            f"time for a step at 1280x720x81. To get it: {self.backend.install}."
        )


def advice(platform: Platform) -> list[Advice]:
    """Returns what is worth installing on a platform: the fastest exact kernel, and of 8 bit.

    What comes with the first one's package is not named again.
    """
    gpus = gpu_class(platform.capability)
    if platform.kind != "cuda" or DEFAULT not in gpus.attention:
        return []
    known = [backend for backend in BACKENDS if backend.name in gpus.attention]
    exact = [backend for backend in known if backend.nominal_error <= MAX_ERROR]
    coarse = [backend for backend in known if backend.nominal_error > MAX_ERROR]
    found: list[Advice] = []
    for kinds, rivals in ((exact, exact), (coarse, known)):
        missing = [b for b in kinds if b.install and _is_missing(b, platform)]
        there = [gpus.attention[b.name] for b in rivals if not _is_missing(b, platform)]
        now = max(there, default=gpus.attention[DEFAULT])
        best = max(missing, key=lambda b: gpus.attention[b.name], default=None)
        if best is None or gpus.attention[best.name] < WORTHWHILE * now:
            continue
        if best.install not in [earlier.backend.install for earlier in found]:
            found.append(_advice(best, now, gpus))
    return found


def _advice(backend: Backend, now: float, gpus: GpuClass) -> Advice:
    rate, matmuls = gpus.attention[backend.name], MATMUL_TFLOP / gpus.matmul
    part = (matmuls + ATTENTION_TFLOP / rate) / (matmuls + ATTENTION_TFLOP / now)
    return Advice(backend, rate / now, part, gpus)


def _is_missing(backend: Backend, platform: Platform) -> bool:
    """Whether a kernel that suits the platform cannot be loaded there."""
    try:
        backend.function(platform)
    except UnavailableError:
        return backend.constraints.misfit(platform) is None
    return False
