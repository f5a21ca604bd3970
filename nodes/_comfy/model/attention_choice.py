"""Which attention kernel a model gets on this machine."""

from pathlib import Path

import torch

from ....wan_model.attention import AttentionFn, explain, resolve, resolve_sparse
from ....wan_model.attention.sol import BACKEND as SPARSE
from ..host import runtime

MEASUREMENTS = "attention.json"
"""File in this pack's folder in which "auto" remembers how fast each kernel is here."""


def choose(name: str, device: torch.device, dtype: torch.dtype) -> tuple[AttentionFn, str]:
    """Returns an attention function, and what the user is told of it.

    Args:
        name: a backend, or "auto", which compares those that are as exact as 16 bit allows, once
            for each GPU and set of versions: about a second and 0.7 GiB. Sparse attention has it
            choose for the layers and steps that stay dense.
        device: where the model will run; "auto" compares on CUDA only.
        dtype: that it computes in.

    Raises:
        BackendError: if the backend cannot run here.
    """
    if name == SPARSE.name:
        return _choose_sparse(runtime.cache_folder() / MEASUREMENTS, dtype)
    if device.type != "cuda":
        return resolve(name), f"attention: {'sdpa' if name == 'auto' else name}"
    memory = runtime.cache_folder() / MEASUREMENTS
    function = resolve(name, memory=memory)
    if name != "auto":
        return function, f"attention: {name}"
    return function, f"attention: auto {explain(memory=memory)[0].status}"


def _choose_sparse(memory: Path, dtype: torch.dtype) -> tuple[AttentionFn, str]:
    schedule = resolve_sparse(dtype, memory=memory)
    dense = explain(memory=memory)[0].status
    return schedule, (
        f"attention: {SPARSE.name} in the last {1 - schedule.dense_part:.0%} of the steps, without "
        f"the first layer, above {schedule.min_tokens} tokens. Elsewhere, auto {dense}"
    )
