"""Which attention kernel a model gets on this machine."""

from pathlib import Path
from typing import Any

import torch

from ....wan_model.attention import (
    FAST_MAX_ERROR,
    NO_ROOM,
    WAITING,
    AttentionFn,
    Measure,
    Platform,
    SparseSchedule,
    advice,
    automatic,
    measure,
    recall,
    remember,
    resolve,
    resolve_fast,
    resolve_sparse,
)
from ....wan_model.attention.sol import BACKEND as SPARSE
from ....wan_model.attention.sol import TRAINED_PART
from ....wan_model.errors import BackendError
from ..host import runtime
from ..host.kernel_cache import kernels_kept

MEASUREMENTS = "attention.json"
"""File in this pack's folder in which "auto" remembers how fast each kernel is here."""


FAST = "auto_fast"
"""Choice of an attention widget: 8 bit after the first steps."""


@kernels_kept()
def choose(
    name: str, device: torch.device, dtype: torch.dtype, *, trained_sparse: bool = False
) -> tuple[AttentionFn, str]:
    """Returns an attention function, and what the user is told of it.

    Args:
        name: a backend, or "auto", which compares those that are as exact as 16 bit allows, once
            for each GPU and set of versions: about a second and 0.7 GiB. Sparse attention has it
            choose for the layers and steps that stay dense.
        device: where the model will run, the current one if it is a GPU; "auto" compares on CUDA
            only.
        dtype: that it computes in.
        trained_sparse: whether the model was trained with sparse attention, which "auto" then
            chooses where it runs.

    Raises:
        BackendError: if the backend cannot run here, or not in this dtype.
    """
    return _choose(name, device, dtype, measure, trained_sparse=trained_sparse)


def planned(
    name: str, device: torch.device, dtype: torch.dtype, *, trained_sparse: bool = False
) -> tuple[AttentionFn, str]:
    """Returns what `choose` would, as far as that is known without measuring; raises as it does."""
    return _choose(name, device, dtype, None, trained_sparse=trained_sparse)


def refusal(name: str, error: BackendError) -> str:
    """Returns why an attention cannot run here, as a sentence without a full stop."""
    got = str(error).partition("Got ")[2].partition(", need")[0]
    known = got.removeprefix(f"{name!r}, which ")
    return f"{name} {known}" if known != got else f"{name} does not take {got}"


def _choose(
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    measuring: Measure | None,
    *,
    trained_sparse: bool,
) -> tuple[AttentionFn, str]:
    memory = runtime.cache_folder() / MEASUREMENTS
    if trained_sparse and name in ("auto", FAST, SPARSE.name):
        return _choose_trained(name, device, dtype, memory, measuring)
    if name == SPARSE.name:
        return _choose_sparse(dtype, memory, measuring)
    if device.type != "cuda":
        by_name = name not in ("auto", FAST)
        function = resolve(name if by_name else "auto", dtype=dtype)
        return function, f"attention: {name if by_name else 'sdpa'}"
    if name == FAST:
        return _choose_fast(dtype, memory, measuring)
    function = resolve(name, dtype=dtype, memory=memory, measure=measuring)
    if name != "auto":
        return function, f"attention: {name}"
    chosen = automatic(dtype=dtype, memory=memory, measure=measuring)
    return function, f"attention: auto {chosen}"


def _choose_trained(
    name: str, device: torch.device, dtype: torch.dtype, memory: Path, measuring: Measure | None
) -> tuple[AttentionFn, str]:
    """As the file was trained; "auto" is dense where that cannot run."""
    try:
        schedule = resolve_sparse(dtype, trained=True, memory=memory, measure=measuring)
    except BackendError as error:
        if name == SPARSE.name:
            raise
        attend, text = _choose(name, device, dtype, measuring, trained_sparse=False)
        return attend, (
            f"{text}. This file was trained with sparse attention and runs here with full "
            f"attention, which is slower: {refusal(SPARSE.name, error)}"
        )
    return schedule, (
        f"attention: {SPARSE.name} as this file was trained: {TRAINED_PART:.0%} of the blocks of "
        "keys, in all steps and layers"
    )


def _choose_sparse(
    dtype: torch.dtype, memory: Path, measuring: Measure | None
) -> tuple[AttentionFn, str]:
    schedule = resolve_sparse(dtype, memory=memory, measure=measuring)
    dense = automatic(dtype=dtype, memory=memory, measure=measuring)
    return schedule, (
        f"attention: {SPARSE.name} in the last {1 - schedule.dense_part:.0%} of the steps, without "
        f"the first layer, above {schedule.min_tokens} tokens. Elsewhere, auto {dense}"
    )


def _choose_fast(
    dtype: torch.dtype, memory: Path, measuring: Measure | None
) -> tuple[AttentionFn, str]:
    function = resolve_fast(dtype, memory=memory, measure=measuring)
    known: Any = {"dtype": dtype, "memory": memory, "measure": measuring}
    exact = f"auto {automatic(**known)}"
    fast = automatic(**known, max_error=FAST_MAX_ERROR)
    if isinstance(function, SparseSchedule):
        return function, (
            f"attention: in the last {1 - function.dense_part:.0%} of the steps {FAST} {fast}. "
            f"Before, {exact}"
        )
    if fast.why in (WAITING, NO_ROOM):
        return function, f"attention: {FAST} {fast}"
    return function, f"attention: {exact}; no 8-bit kernel is faster here"


def what_to_install(device: torch.device) -> list[str]:
    """Returns what would make attention faster on this GPU, each line once a machine."""
    if device.type != "cuda":
        return []
    with runtime.on_device(device):
        platform = Platform.current()
    memory = runtime.cache_folder() / MEASUREMENTS
    lines = []
    for missing in advice(platform):
        key = f"told on {platform.gpu}: {missing.backend.name}"
        if recall(memory, key) is None:
            remember(memory, key, [])
            choice = "" if missing.exact else f" Then choose attention '{FAST}'."
            lines.append(f"{missing}{choice}")
    return lines
