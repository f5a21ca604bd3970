"""Names and shapes in pickled files, and what checkpoints call the same.

TurboDiffusion: `patch_embedding.weight` is flat, (dim, C * 1 * 2 * 2) in the order of a Conv3d's
weight; quantized layers have `int8_weight` and `scale`, one for each tile of 128 x 128.
Source: `turbodiffusion/ops/core.py` of its repository.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from ..loading.keymap import PREFIXES

WRAPPERS = ("state_dict", "model", "module", "generator_ema", "generator")
"""Keys below which training code puts a model's tensors; a moving average comes first."""

PATCH = "patch_embedding.weight"
PATCH_SIDES = (1, 2, 2)


def unwrapped(loaded: Any, file: str) -> dict[str, Tensor]:
    """Returns the tensors of what was in a pickled file.

    Args:
        loaded: by torch, with nothing but tensors and plain values allowed.
        file: its name, for messages.

    Raises:
        CheckpointError: if there is no table of tensors.
    """
    while isinstance(loaded, Mapping):
        inner = next(
            (loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), Mapping)), None
        )
        if inner is None:
            break
        loaded = inner
    tensors = loaded if isinstance(loaded, Mapping) else {}
    found = {name: t for name, t in tensors.items() if isinstance(t, Tensor)}
    if not found or not all(isinstance(name, str) for name in found):
        raise CheckpointError(
            f"{file} holds no model. Got {type(loaded).__name__} without named tensors, need a "
            "table of tensors by name. Choose another file."
        )
    return found


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns tensors with the names and shapes that checkpoints have."""
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer, _, leaf = name.rpartition(".")
        if leaf == "int8_weight":
            result[f"{layer}.weight"] = tensor
        elif leaf == "scale" and f"{layer}.int8_weight" in tensors:
            result[f"{layer}.weight_scale"] = tensor
        elif _short(name) == PATCH and tensor.ndim == 2:
            result[name] = tensor.unflatten(1, (-1, *PATCH_SIDES))
        else:
            result[name] = tensor
    return result


def _short(name: str) -> str:
    return name.removeprefix(next((p for p in PREFIXES if name.startswith(p)), ""))
