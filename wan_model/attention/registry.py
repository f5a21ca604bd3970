"""Attention backends: which there are, why one cannot run here, and which one is chosen.

A name asked for means that backend or an error; only "auto" chooses. Every backend is one file
with a function (q, k, v) -> out and a check that says why it is unavailable.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..errors import BackendError
from .sdpa import always_available, sdpa


class AttentionFn(Protocol):
    """Unmasked attention: q (B, L, H, D), k and v (B, S, H, D) give (B, L, H, D)."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, /) -> Tensor:
        """Returns softmax(q k^T / sqrt(D)) v."""
        ...


@dataclass(frozen=True)
class Backend:
    """One way to compute attention."""

    name: str
    label: str
    """What it is, for people."""
    function: AttentionFn
    unavailable_reason: Callable[[], str | None]
    """Returns why it cannot run on this machine, or None if it can."""


BACKENDS: tuple[Backend, ...] = (
    Backend("sdpa", "PyTorch scaled dot product attention", sdpa, always_available),
)
"""In order of preference: "auto" takes the first that is available."""


def names() -> list[str]:
    """Returns the names that `resolve` takes, "auto" first."""
    return ["auto", *(backend.name for backend in BACKENDS)]


def resolve(name: str) -> AttentionFn:
    """Returns the attention function called `name`, or the preferred available one for "auto".

    Raises:
        BackendError: for an unknown name or a backend that cannot run here; lists every
            backend with its reason.
    """
    for backend in BACKENDS:
        wanted = name in ("auto", backend.name)
        if wanted and backend.unavailable_reason() is None:
            return backend.function
    status = "; ".join(f"{line.name}: {line.status}" for line in explain())
    raise BackendError(
        f"Attention backend not available. Got {name!r}, need one that runs here ({status}). "
        "Choose 'auto'."
    )


@dataclass(frozen=True)
class BackendStatus:
    """What `explain` says of one backend."""

    name: str
    label: str
    status: str
    """"available", or why it is not."""


def explain() -> list[BackendStatus]:
    """Returns every backend in order of preference with its status on this machine."""
    return [BackendStatus(b.name, b.label, b.unavailable_reason() or "available") for b in BACKENDS]
