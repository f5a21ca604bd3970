"""Who places a model's weights where nobody says: the weights engine or ComfyUI."""

import os

import torch

MEMORY_VARIABLE = "WANDUET_MEMORY"
"""Environment variable: "comfyui" leaves weights to its memory manager."""


def has_engine_by_default(device: torch.device) -> bool:
    """Returns whether the weights engine is used without being asked for.

    It is on Nvidia GPUs, where it has been measured. Elsewhere it is right, but nobody has shown
    that it is faster than ComfyUI's memory manager.
    """
    if os.environ.get(MEMORY_VARIABLE) == "comfyui":
        return False
    return device.type == "cuda" and torch.version.hip is None
