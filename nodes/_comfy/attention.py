"""Which attention kernel a model gets on this machine."""

import torch

from ...wan_model.attention import AttentionFn, explain, resolve
from . import host

MEASUREMENTS = "attention.json"
"""File in this pack's folder in which "auto" remembers how fast each kernel is here."""


def choose(name: str, device: torch.device) -> tuple[AttentionFn, str]:
    """Returns an attention function, and what the user is told of it.

    Args:
        name: a backend, or "auto", which compares those that are as exact as 16 bit allows, once
            for each GPU and set of versions: about a second and 0.7 GiB.
        device: where the model will run; "auto" compares on CUDA only.

    Raises:
        BackendError: if the backend cannot run here.
    """
    if device.type != "cuda":
        return resolve(name), f"attention: {'sdpa' if name == 'auto' else name}"
    memory = host.cache_folder() / MEASUREMENTS
    function = resolve(name, memory=memory)
    if name != "auto":
        return function, f"attention: {name}"
    return function, f"attention: auto {explain(memory=memory)[0].status}"
