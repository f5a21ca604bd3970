"""LoRAs on weights that arrive on the device, where ComfyUI would patch the whole model at once."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.float
import comfy.model_patcher
import comfy.utils
import torch
from torch import Tensor, nn

from ....wan_model.offload import Extra
from ....wan_model.quant import Linear
from .dense_patches import place_dense, split_dense, with_patches
from .low_rank import PREFIX, LoraOperands, Patches, same_patches, sort_patches

COPIES = 3
"""fp32 weights that live while one is patched: itself, what a LoRA adds, their sum."""

DENSE_COPIES = 5
"""The same where a weight is changed for a call: also what DoRA and OFT make of it, and 16 bit."""

# Newer cores moved it.
string_to_seed = getattr(comfy.utils, "string_to_seed", None) or comfy.model_patcher.string_to_seed


class ArrivalPatches:
    """The patches of every expert. Called by the engine, as its `OnArrival`."""

    def __init__(self, experts: int, device: torch.device) -> None:
        self._merged: list[Patches] = [{} for _ in range(experts)]
        self._dense: list[Patches] = [{} for _ in range(experts)]
        self._by_block: list[dict[int | None, dict[str, list[Any]]]] = [{} for _ in range(experts)]
        self._operands = [LoraOperands(device) for _ in range(experts)]

    def set(self, expert: int, module: nn.Module, active: Patches, waiting: Patches) -> "News":
        """Takes the patches of an expert from now on.

        Args:
            expert: number of it.
            module: its transformer.
            active: patches by key.
            waiting: patches that may become active without others than these.
        """
        loras, merged = sort_patches(module, active, waiting)
        merged, self._dense[expert] = split_dense(module, merged)
        place_dense(module, self._dense[expert])
        before, self._merged[expert] = self._merged[expert], merged
        blocks = self._by_block[expert] = {}
        for key, patches in merged.items():
            blocks.setdefault(block_of(key), {})[key] = patches
        others = self._operands[expert].set(module, loras)
        return News(operands=others, merged=not same_patches(before, merged))

    def extras(self, expert: int, module: nn.Module) -> dict[int | None, list[Extra]]:
        """Returns what has to travel with the blocks of an expert."""
        operands, found = self._operands[expert], {}
        for path, tensors in operands.stacked():
            make = partial(operands.operands, path)
            extra = Extra(module.get_submodule(path), "adapters", tensors, make)
            found.setdefault(block_of(path), []).append(extra)
        return found

    def workspace_bytes(self, module: nn.Module, expert: int) -> int:
        """Returns the memory that merging into the largest such weight of a model takes."""
        numels = [
            copies * numel(module, key.removeprefix(PREFIX))
            for copies, patches in (
                (COPIES, self._merged[expert]),
                (DENSE_COPIES, self._dense[expert]),
            )
            for key in patches
        ]
        return torch.float32.itemsize * max(numels, default=0)

    def __call__(self, model: int, block: int | None, module: nn.Module) -> None:
        """Patches the weights in `module`: a block, or for None the whole model."""
        prefix = PREFIX if block is None else f"{PREFIX}blocks.{block}."
        for key, patches in self._by_block[model].get(block, {}).items():
            path, _, leaf = key.removeprefix(prefix).rpartition(".")
            patch(module.get_submodule(path), leaf, key, patches)


@dataclass(frozen=True)
class News:
    """What is different with new patches; other strengths of operands are not."""

    operands: bool
    """Whether other tensors have to travel with the blocks."""
    merged: bool
    """Whether weights have to be merged anew, and so be fetched."""


def numel(module: nn.Module, name: str) -> int:
    """Returns how many values a tensor has; a stored byte may hold two."""
    path, _, leaf = name.rpartition(".")
    layer = module.get_submodule(path)
    if isinstance(layer, Linear) and leaf == "weight":
        return layer.in_features * layer.out_features
    return getattr(layer, leaf).numel()


def block_of(key: str) -> int | None:
    """Returns the number of the block that a key belongs to, None outside of the blocks."""
    parts = key.removeprefix(PREFIX).split(".")
    return int(parts[1]) if parts[0] == "blocks" else None


def patch(layer: nn.Module, leaf: str, key: str, patches: list[Any]) -> None:
    """Patches one tensor in place, in fp32, and rounds it like ComfyUI does."""
    stored: Tensor = getattr(layer, leaf)
    weight = stored.to(torch.float32, copy=True)
    convert = getattr(layer, f"convert_{leaf}", None)
    weight = weight if convert is None else convert(weight, inplace=True)
    weight = with_patches(weight, key, patches)
    seed = string_to_seed(key)
    store = getattr(layer, f"set_{leaf}", None)
    if store is None:
        stored.data.copy_(comfy.float.stochastic_rounding(weight, stored.dtype, seed=seed))
    else:
        store(weight, inplace_update=True, seed=seed, own_scales=True)
