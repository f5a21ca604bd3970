"""Attention backends: which there are, why one cannot run here, and which one is chosen.

A name asked for means that backend or an error; only "auto" chooses. Every backend is one file.
"auto" compares 16 bit backends only; 8 bit ones are taken by name. Whatever is taken, calls that
are not meant for it go to sdpa: cross-attention for 8 bit ones (`Constraints.takes`).

comfy-kitchen's sparse attention is not in the list: it depends on layer and step, see `sol`;
`resolve_sparse` finds it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import BackendError
from . import flash_attn_2, flash_attn_3, flash_attn_3_fp8, kitchen, sage, sdpa, sol
from .auto import DEFAULT, FAST_MAX_ERROR, MAX_ERROR, Choice, Measurement, choose, recall, remember
from .backend import (
    MIN_LOW_PRECISION_TOKENS,
    AttentionFn,
    Backend,
    Platform,
    UnavailableError,
)
from .kernel_timing import measure
from .sol import SparseSchedule

Measure = Callable[[Mapping[str, AttentionFn], torch.dtype], Sequence[Measurement]]

BACKENDS: tuple[Backend, ...] = (
    sdpa.BACKEND,
    *sdpa.KERNELS,
    flash_attn_2.BACKEND,
    flash_attn_3.BACKEND,
    flash_attn_3_fp8.BACKEND,
    *sage.BACKENDS,
    kitchen.BACKEND,
)
WAITING = "until the backends are compared, when 'auto' is first used"
"""Why "auto" chooses nothing else where nothing has been measured yet."""

NO_ROOM = "too little memory is free to compare backends"
"""The same where it could not be measured."""


@dataclass(frozen=True)
class Selected:
    """A backend's function, for the calls that it is meant for; sdpa for the others."""

    backend: Backend
    function: AttentionFn
    by_name: bool
    """Whether a call that it cannot take is an error or goes to sdpa."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, /) -> Tensor:
        """Returns softmax(q k^T / sqrt(D)) v.

        Raises:
            BackendError: if the backend was asked for by name and cannot compute the call.
        """
        if not self.backend.constraints.takes(q, k):
            return sdpa.sdpa(q, k, v)
        if refusal := self.backend.constraints.refusal(q):
            if not self.by_name:
                return sdpa.sdpa(q, k, v)
            raise BackendError(_cannot_compute(self.backend, refusal))
        return self.function(q, k, v)


def names() -> list[str]:
    """Returns the names that `resolve` takes, "auto" first."""
    return ["auto", *(backend.name for backend in BACKENDS)]


def resolve(
    name: str,
    *,
    dtype: torch.dtype | None = None,
    memory: Path | None = None,
    max_error: float = MAX_ERROR,
    platform: Platform | None = None,
    measure: Measure | None = measure,
) -> AttentionFn:
    """Returns the attention function called `name`, or the one that "auto" chooses.

    Args:
        name: one of `names`.
        dtype: of what it will be given, in which "auto" compares. None: not known.
        memory: file in which "auto" remembers what it measured. None: it takes sdpa.
        max_error: greatest rms error that "auto" accepts.
        platform: where it is to run; this process by default.
        measure: tries functions by name; None: nothing is tried, and "auto" goes by what is
            remembered.

    Raises:
        BackendError: for an unknown name or a backend that cannot run here, or not in this dtype,
            with the reason.
    """
    by_name = name != "auto"
    if name == DEFAULT or (memory is None and not by_name):
        return sdpa.sdpa
    platform = platform or Platform.current()
    if not by_name:
        known: Any = {"dtype": dtype, "memory": memory, "platform": platform, "measure": measure}
        name = automatic(max_error=max_error, **known).name
    backend = next((backend for backend in BACKENDS if backend.name == name), None)
    if backend is None:
        raise BackendError(
            f"There is no attention backend of this name. Got {name!r}, need one of: "
            f"{', '.join(names())}. Choose 'auto'."
        )
    if backend is sdpa.BACKEND:
        return sdpa.sdpa
    selected = _selected(backend, platform, by_name)
    refusal = backend.constraints.dtype_refusal(dtype) if by_name and dtype else None
    if refusal:
        raise BackendError(_cannot_compute(backend, refusal))
    return selected


def resolve_sparse(
    dtype: torch.dtype,
    *,
    trained: bool = False,
    memory: Path | None = None,
    platform: Platform | None = None,
    measure: Measure | None = measure,
) -> SparseSchedule:
    """Returns comfy-kitchen's sparse attention, dense with what "auto" chooses.

    Args:
        dtype: of what it will be given. The first call may be many steps away.
        trained: whether the model was trained with it: in all steps and layers, at any size.
        memory: as of `resolve`.
        platform: as of `resolve`.
        measure: as of `resolve`.

    Raises:
        BackendError: if it cannot run here or not in this dtype, with the reason.
    """
    platform = platform or Platform.current()
    sparse = _selected(sol.TRAINED if trained else sol.BACKEND, platform, by_name=True)
    if refusal := sol.BACKEND.constraints.dtype_refusal(dtype):
        raise BackendError(_cannot_compute(sol.BACKEND, refusal))
    dense = resolve("auto", dtype=dtype, memory=memory, platform=platform, measure=measure)
    if trained:
        return SparseSchedule(sparse, dense, dense_layers=0, dense_part=0.0, min_tokens=0)
    return SparseSchedule(sparse, dense)


def resolve_fast(
    dtype: torch.dtype,
    *,
    memory: Path | None = None,
    platform: Platform | None = None,
    measure: Measure | None = measure,
) -> AttentionFn:
    """Returns the fastest attention within `FAST_MAX_ERROR`, exact in the first steps of a run.

    Where no 8-bit kernel is faster than the exact ones, or none takes the dtype, it is what "auto"
    chooses.

    Args:
        dtype: of what it will be given.
        memory: as of `resolve`.
        platform: as of `resolve`.
        measure: as of `resolve`.
    """
    platform = platform or Platform.current()
    options: Any = {"dtype": dtype, "memory": memory, "platform": platform, "measure": measure}
    exact = resolve("auto", **options)
    fast = resolve("auto", max_error=FAST_MAX_ERROR, **options)
    if not isinstance(fast, Selected) or not fast.backend.constraints.low_precision:
        return exact
    if fast.backend.constraints.dtype_refusal(dtype):
        return exact
    return SparseSchedule(fast, exact, dense_layers=0, min_tokens=MIN_LOW_PRECISION_TOKENS)


def _selected(backend: Backend, platform: Platform, by_name: bool) -> Selected:
    try:
        return Selected(backend, backend.function(platform), by_name)
    except UnavailableError as error:
        raise BackendError(_unavailable(backend, error, platform)) from error


def automatic(
    *,
    dtype: torch.dtype | None = None,
    memory: Path | None = None,
    max_error: float = MAX_ERROR,
    platform: Platform | None = None,
    measure: Measure | None = None,
) -> Choice:
    """Returns what "auto" chooses, and why; for the arguments see `resolve`.

    Measures nothing unless told how, and then only what `memory` does not have; in fp16 where that
    is computed in, else in bf16: kernels for fp32 are PyTorch's own.
    """
    platform = platform or Platform.current()
    dtype = torch.float16 if dtype == torch.float16 else torch.bfloat16
    if platform.kind == "other":
        return Choice(DEFAULT, "there is no GPU to compare backends on")
    if memory is None:
        return Choice(DEFAULT, "no file is given to remember measurements in")
    functions = _candidates(platform, max_error, dtype)
    key = memory_key(list(functions), platform, dtype)
    measurements = recall(memory, key)
    if measurements is None:
        if measure is None:
            return Choice(DEFAULT, WAITING)
        try:
            measurements = measure(functions, dtype)
        except torch.OutOfMemoryError:
            return Choice(DEFAULT, NO_ROOM)
        remember(memory, key, measurements)
    return choose([m for m in measurements if m.name in functions], max_error)


def memory_key(
    names: Sequence[str], platform: Platform, dtype: torch.dtype = torch.bfloat16
) -> str:
    """Returns what measurements hold for: GPU, PyTorch, backends, their versions, and the dtype."""
    used = (backend for backend in BACKENDS if backend.name in names)
    parts = (f"{backend.name} {backend.version(platform)}".rstrip() for backend in used)
    computed = () if dtype == torch.bfloat16 else (str(dtype),)
    return ", ".join((platform.gpu, f"torch {torch.__version__}", *computed, *parts))


def _candidates(platform: Platform, max_error: float, dtype: torch.dtype) -> dict[str, AttentionFn]:
    """Returns the backends worth trying: they run here, in this dtype, and may be exact enough."""
    functions = {}
    for backend in BACKENDS:
        fits = backend.constraints.dtype_refusal(dtype) is None
        if backend.candidate and fits and backend.nominal_error <= max_error:
            try:
                functions[backend.name] = backend.function(platform)
            except UnavailableError:
                continue
    return functions


def _cannot_compute(backend: Backend, refusal: str) -> str:
    return (
        f"Attention backend {backend.name!r} cannot compute this. {refusal}. Choose another "
        "precision, or 'auto' for attention."
    )


def _unavailable(backend: Backend, error: UnavailableError, platform: Platform) -> str:
    available = [b.name for b in BACKENDS if b.unavailable_reason(platform) is None]
    misfit = backend.constraints.misfit(platform)
    remedy = "" if misfit or not backend.install else f"Install it ({backend.install}), or choose "
    return (
        f"This attention backend cannot run here. Got {backend.name!r}, which {error}, need one "
        f"of: auto, {', '.join(available)}. {remedy or 'Choose '}'auto'."
    )
