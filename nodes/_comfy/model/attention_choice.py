"""Which attention kernel a model gets on this machine."""

from pathlib import Path

import torch

from ....wan_model.attention import (
    FAST_MAX_ERROR,
    AttentionFn,
    Platform,
    SparseSchedule,
    advice,
    explain,
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
        device: where the model will run; "auto" compares on CUDA only.
        dtype: that it computes in.
        trained_sparse: whether the model was trained with sparse attention, which "auto" then
            chooses where it runs.

    Raises:
        BackendError: if the backend cannot run here, or not in this dtype.
    """
    if trained_sparse and name in ("auto", FAST, SPARSE.name):
        return _choose_trained(name, device, dtype)
    if name == SPARSE.name:
        return _choose_sparse(runtime.cache_folder() / MEASUREMENTS, dtype)
    if device.type != "cuda":
        automatic = name in ("auto", FAST)
        function = resolve("auto" if automatic else name, dtype=dtype)
        return function, f"attention: {'sdpa' if automatic else name}"
    memory = runtime.cache_folder() / MEASUREMENTS
    if name == FAST:
        return _choose_fast(memory, dtype)
    function = resolve(name, dtype=dtype, memory=memory)
    if name != "auto":
        return function, f"attention: {name}"
    return function, f"attention: auto {explain(dtype=dtype, memory=memory)[0].status}"


def planned(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """Returns which attention `choose` would take, as far as that is known without measuring."""
    if name not in ("auto", FAST):
        return f"attention: {name}"
    if device.type != "cuda":
        return "attention: sdpa"
    memory = runtime.cache_folder() / MEASUREMENTS
    exact = f"auto {explain(dtype=dtype, memory=memory)[0].status}"
    if name == "auto":
        return f"attention: {exact}"
    fast = explain(dtype=dtype, memory=memory, max_error=FAST_MAX_ERROR)[0].status
    return f"attention: {FAST} {fast}. In the first steps {exact}"


def _choose_trained(name: str, device: torch.device, dtype: torch.dtype) -> tuple[AttentionFn, str]:
    """As the file was trained; "auto" is dense where that cannot run."""
    try:
        schedule = resolve_sparse(dtype, trained=True, memory=runtime.cache_folder() / MEASUREMENTS)
    except BackendError as error:
        if name == SPARSE.name:
            raise
        attend, text = choose(name, device, dtype)
        reason = str(error).partition("Got ")[2].partition(", need")[0].replace(", which", "")
        return attend, (
            f"{text}. This file was trained with sparse attention and runs here with full "
            f"attention, which is slower: {reason}"
        )
    return schedule, (
        f"attention: {SPARSE.name} as this file was trained: {TRAINED_PART:.0%} of the blocks of "
        "keys, in all steps and layers"
    )


def _choose_sparse(memory: Path, dtype: torch.dtype) -> tuple[AttentionFn, str]:
    schedule = resolve_sparse(dtype, memory=memory)
    dense = explain(dtype=dtype, memory=memory)[0].status
    return schedule, (
        f"attention: {SPARSE.name} in the last {1 - schedule.dense_part:.0%} of the steps, without "
        f"the first layer, above {schedule.min_tokens} tokens. Elsewhere, auto {dense}"
    )


def _choose_fast(memory: Path, dtype: torch.dtype) -> tuple[AttentionFn, str]:
    function = resolve_fast(dtype, memory=memory)
    exact = f"auto {explain(dtype=dtype, memory=memory)[0].status}"
    if not isinstance(function, SparseSchedule):
        return function, f"attention: {exact}; no 8-bit kernel is faster here"
    fast = explain(dtype=dtype, memory=memory, max_error=FAST_MAX_ERROR)[0].status
    return function, (
        f"attention: in the last {1 - function.dense_part:.0%} of the steps {FAST} {fast}. Before, "
        f"{exact}"
    )


def what_to_install(device: torch.device) -> list[str]:
    """Returns what would make attention faster on this GPU, each line once a machine."""
    if device.type != "cuda":
        return []
    platform, memory = Platform.current(), runtime.cache_folder() / MEASUREMENTS
    lines = []
    for missing in advice(platform):
        key = f"told on {platform.gpu}: {missing.backend.name}"
        if recall(memory, key) is None:
            remember(memory, key, [])
            choice = "" if missing.exact else f" Then choose attention '{FAST}'."
            lines.append(f"{missing}{choice}")
    return lines
