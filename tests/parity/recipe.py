"""Weights and inputs that are the same on every machine: a hash of a name and an index, no RNG.

The golden tensors were made with them by the official code (`golden/golden.npz`).
"""

import math
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

GOLDEN = Path(__file__).parent / "golden"

Module = TypeVar("Module", bound=nn.Module)

MIX = np.uint32(0x45D9F3B)


def value(name: str, shape: Sequence[int], amp: float = 1.0, add: float = 0.0) -> Tensor:
    """Returns float32 amp * u + add of `shape`; u has mean 0, variance 1 and is uniform."""
    index = np.arange(math.prod(shape), dtype=np.uint32)
    x = index * np.uint32(2654435761) + np.uint32(zlib.crc32(name.encode()))
    for _ in range(2):
        x ^= x >> np.uint32(16)
        x *= MIX
    x ^= x >> np.uint32(16)
    u = (x.astype(np.float64) / 2**32 - 0.5) * math.sqrt(12)
    return torch.from_numpy((u * amp + add).astype(np.float32)).reshape(tuple(shape))


def weight(key: str, shape: Sequence[int]) -> Tensor:
    """Returns the weight of the official state-dict key `key`."""
    if key.endswith("gamma") or ("norm" in key and key.endswith("weight")):
        return value(key, shape, 0.1, 1.0)
    if "modulation" in key:
        return value(key, shape, 0.3)
    if len(shape) > 1:
        return value(key, shape, 1 / math.sqrt(math.prod(shape) / shape[0]))
    return value(key, shape, 0.05)


@torch.no_grad()
def fill(module: Module) -> Module:
    """Overwrites every tensor of a module's state dict, in place, and returns the module."""
    for key, tensor in module.state_dict().items():
        tensor.copy_(weight(key, tensor.shape))
    return module


@cache
def golden() -> dict[str, np.ndarray]:
    """Returns every golden tensor by name, such as "t2v.out" or "vae21.T9.z"."""
    with np.load(GOLDEN / "golden.npz") as data:
        return {name: data[name] for name in data.files}
