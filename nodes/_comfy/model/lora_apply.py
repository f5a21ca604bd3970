"""Puts a LoRA file on a MODEL, ours or core's, and looks at what it does there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from torch import Tensor, nn

from ....wan_model.loading import Expert
from ....wan_model.lora import Addition, Change, Translated
from .distilled_loras import AppliedFile, note_file
from .lora_shelf import FilePatches, LoraShelf
from .low_rank import PREFIX, as_lora, quantized_layer
from .saving import SavingPatcher

LOOKED_AT = 6
"""Weights of which the size is compared with that of their changes."""

LARGEST = 1 << 26
"""Numbers of a weight that is looked at, if there are others: those of feed-forward layers are
large, and have to be read from the disk."""


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What a file does to one MODEL."""

    strength: float
    translated: Translated
    of_both_experts: bool
    effect: float
    """Norm of the changes of some weights by the norm of those weights."""
    merged_anew: int
    """Quantized weights whose changes are no two thin matrices: they are computed at each use."""

    @property
    def matched(self) -> int:
        """Tensors of the model that are changed."""
        return len(self.translated.changes)


def shelf_of(patcher: Any) -> LoraShelf:
    """Returns the files that a MODEL of ours has seen; core's remembers none."""
    if isinstance(patcher, SavingPatcher):
        return patcher.model.lora_shelf
    return LoraShelf()


def apply_file(patcher: Any, path: Path, strength: float, expert: Expert) -> tuple[Any, Applied]:
    """Returns a clone of a MODEL with a LoRA, and what that does.

    Args:
        patcher: the MODEL.
        path: of the file.
        strength: 1 is as trained.
        expert: which of a model's two the MODEL is.

    Raises:
        CheckpointError: if it is no LoRA for this model.
    """
    dit = patcher.model.diffusion_model
    found = shelf_of(patcher).get(path, dit, expert)
    clone = patcher.clone()
    for name, patches in found.patches.items():
        for patch in patches:
            _add(clone, name, patch, strength, found)
    note_file(clone, AppliedFile(found.distilled, strength, found.patches))
    applied = Applied(
        strength=strength,
        translated=found.translated,
        of_both_experts=found.of_both_experts,
        effect=_effect(patcher.model, found, strength),
        merged_anew=_merged_anew(dit, found),
    )
    return clone, applied


def _add(clone: Any, name: str, patch: Any, strength: float, found: FilePatches) -> None:
    """Adds one patch; core merges none into tensors beside layers, such as modulations."""
    key = PREFIX + name
    if isinstance(clone, SavingPatcher):
        clone.add_file_patches({key: patch}, strength)
    elif name.endswith((".weight", ".bias")):
        clone.add_patches({key: patch}, strength)
    else:
        value = clone.get_model_object(key).detach().to(torch.float32)
        for change in found.translated.changes[name]:
            value = change.applied(value, strength)
        clone.add_object_patch(key, nn.Parameter(value, requires_grad=False))


def _effect(model: Any, found: FilePatches, strength: float) -> float:
    """Returns how large changes are beside their weights, of some that stand for all."""
    matrices = [
        (name, changes)
        for name, changes in found.translated.changes.items()
        if name.endswith(".weight") and len(_weight(model, name)[0].shape) > 1
    ]
    small = [pair for pair in matrices if _weight(model, pair[0])[0].numel() <= LARGEST]
    matrices = small or matrices
    step = max(1, len(matrices) // LOOKED_AT)
    squares = [_squares(model, name, changes) for name, changes in matrices[::step][:LOOKED_AT]]
    of_weights = sum(whole for _, whole in squares)
    if not of_weights:
        return 0.0
    return abs(strength) * (sum(change for change, _ in squares) / of_weights) ** 0.5


def _squares(model: Any, name: str, changes: Sequence[Change]) -> tuple[float, float]:
    """Returns the squared norms of what is changed at strength 1, and of the weight."""
    weight, convert = _weight(model, name)
    host = torch.device("cpu")
    dense: Tensor = comfy.model_management.cast_to_device(weight, host, torch.float32, copy=True)
    dense = dense if convert is None else convert(dense, inplace=True)
    squared = 0.0
    for change in changes:
        if isinstance(change, Addition):
            squared += change.norm() ** 2
        else:
            squared += float((change.applied(dense, 1.0) - dense).norm()) ** 2
    return squared, float(dense.norm()) ** 2


def _weight(model: Any, name: str) -> tuple[Tensor, Any]:
    """Returns a stored weight, and what dequantizes it."""
    weight, _, convert = comfy.model_patcher.get_key_weight(model, PREFIX + name)
    return weight, convert


def _merged_anew(dit: nn.Module, found: FilePatches) -> int:
    """Returns how many quantized weights are changed at each use."""
    layers = {name: quantized_layer(dit, PREFIX + name) for name in found.patches}
    return sum(
        any(as_lora((1.0, patch, 1.0, None, None), layer) is None for patch in found.patches[name])
        for name, layer in layers.items()
        if layer is not None
    )
