"""Which of ComfyUI's patches are LoRAs of a linear layer, and those as operands of the layer.

A quantized weight is never changed by a LoRA: the layer multiplies with it beside the weight. What
is no plain LoRA, and LoRAs of other weights, are merged as ComfyUI does.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy.weight_adapter import LoHaAdapter, LoKrAdapter, LoRAAdapter
from torch import Tensor, nn

from ....wan_model.quant import Adapter, Kronecker, Linear, LowRank, stacked, stacked_rank
from .file_change import FileChange

PREFIX = "diffusion_model."

SCALES_APART = 64
"""Places of scales are multiples of it, as far apart as kernels expect tensors to lie."""

Patches = Mapping[str, list[Any]]
"""ComfyUI's patches by key: (strength, what, strength of the weight, offset, function)."""


@dataclass(frozen=True)
class Lora:
    """One LoRA of one linear layer."""

    down: Tensor
    """(R, I, ...), as in the file."""
    up: Tensor
    """(O, R, ...), as in the file."""
    scale: float
    """Strength * alpha / rank."""

    @property
    def tensors(self) -> tuple[int, int]:
        """Equal for two of the same tensors, while either is alive."""
        return id(self.down), id(self.up)


@dataclass(frozen=True)
class KroneckerLora:
    """One LoKr of one linear layer, whose matrices are not thin."""

    first: Tensor
    """(O1, I1)."""
    second: Tensor
    """(O2, I2)."""
    scale: float
    """Strength * scale of the file."""

    @property
    def tensors(self) -> tuple[int, int]:
        """Equal for two of the same tensors, while either is alive."""
        return id(self.first), id(self.second)


Operand = Lora | KroneckerLora
Loras = Mapping[str, list[Operand]]
"""By the path of their layer."""


def sort_patches(
    module: nn.Module, active: Patches, waiting: Patches
) -> tuple[dict[str, list[Operand]], dict[str, list[Any]]]:
    """Tells LoRAs that are operands from patches that are merged.

    Args:
        module: the transformer.
        active: patches to be applied.
        waiting: patches that may be later, such as those of hooks.

    Returns:
        LoRAs by the layer's path, those that wait with scale 0; and by key what is to be merged.
    """
    loras: dict[str, list[Operand]] = {}
    merged: dict[str, list[Any]] = {}
    for key, patches in active.items():
        layer, rest = quantized_layer(module, key), patches
        if layer is not None:
            loras[path_of(key)], rest = split(patches, layer)
        if rest:
            merged[key] = rest
    for key, patches in waiting.items():
        layer = quantized_layer(module, key)
        if layer is not None:
            found = (as_lora(patch, layer) for patch in patches)
            off = [replace(lora, scale=0.0) for lora in found if lora is not None]
            loras.setdefault(path_of(key), []).extend(off)
    return {path: _summed(found) for path, found in loras.items() if found}, merged


def path_of(key: str) -> str:
    """Returns the path of the layer whose tensor a key names."""
    return key.removeprefix(PREFIX).rpartition(".")[0]


def quantized_layer(module: nn.Module, key: str) -> Linear | None:
    """Returns the linear layer whose quantized weight a key names, if it does."""
    layer = module.get_submodule(path_of(key)) if key.endswith(".weight") else None
    return layer if isinstance(layer, Linear) and layer.format.is_quantized else None


def split(patches: Sequence[Any], layer: Linear) -> tuple[list[Operand], list[Any]]:
    """Returns the patches of a layer that can be operands, and those that are to be merged.

    A LoRA can if all that follows it only adds something, too: other patches, such as DoRA, change
    what they find.
    """
    loras: list[Operand] = []
    rest: list[Any] = []
    only_sums = True
    for patch in reversed(patches):
        lora = as_lora(patch, layer) if only_sums else None
        if lora is None:
            only_sums = only_sums and _adds(patch)
            rest.append(patch)
        else:
            loras.append(lora)
    return loras[::-1], rest[::-1]


def as_lora(patch: Any, layer: Linear) -> Operand | None:
    """Returns a patch as LoRA of a layer; None if it is something else, or does not fit."""
    strength, what, strength_model, offset, function = patch
    if offset is not None or function is not None or strength_model != 1.0:
        return None
    if isinstance(what, FileChange):
        if what.pair is not None:
            return _lora(*what.pair, strength, layer)
        return None if what.factors is None else _kronecker(*what.factors, strength, layer)
    if isinstance(what, LoKrAdapter):
        first, second, *others = what.weights
        if any(one is None or one.ndim != 2 for one in (first, second)) or others[-1] is not None:
            return None
        return _kronecker(first, second, 1.0, strength, layer)
    if not isinstance(what, LoRAAdapter):
        return None
    up, down, alpha, *others = what.weights
    if any(one is not None for one in others):
        return None
    return _lora(down, up, 1.0 if alpha is None else float(alpha) / len(down), strength, layer)


def _lora(down: Tensor, up: Tensor, scale: float, strength: float, layer: Linear) -> Lora | None:
    """Returns a LoRA of a layer, None if it does not fit."""
    rank, *inputs = down.shape
    if tuple(up.shape[:2]) != (layer.out_features, rank) or math.prod(up.shape[2:]) != 1:
        return None
    if math.prod(inputs) != layer.in_features:
        return None
    return Lora(down, up, strength * scale)


def _kronecker(
    first: Tensor, second: Tensor, scale: float, strength: float, layer: Linear
) -> KroneckerLora | None:
    """Returns a LoKr of a layer, None if it does not fit."""
    sides = (len(first) * len(second), first.shape[1] * second.shape[1])
    if sides != (layer.out_features, layer.in_features):
        return None
    return KroneckerLora(first, second, strength * scale)


def _adds(patch: Any) -> bool:
    """Whether what a patch adds to a weight does not depend on the weight."""
    _, what, strength_model, _, _ = patch
    if strength_model != 1.0:
        return False
    if isinstance(what, FileChange):
        return what.adds
    if isinstance(what, LoRAAdapter):
        return what.weights[4] is None and what.weights[5] is None
    if isinstance(what, (LoHaAdapter, LoKrAdapter)):
        return what.weights[-1] is None
    # Another number of tensors: one that may enlarge the weight.
    return isinstance(what, tuple) and what[0] == "diff" and len(what[1]) == 1


def _summed(loras: Iterable[Operand]) -> list[Operand]:
    """Returns LoRAs with those of the same tensors in one, such as a file used twice."""
    found: dict[tuple[int, int], Operand] = {}
    for lora in loras:
        before = found.get(lora.tensors)
        scale = lora.scale + (before.scale if before else 0.0)
        found[lora.tensors] = replace(lora, scale=scale)
    return list(found.values())


def joined(*patches: Patches) -> Patches:
    """Returns patches by key, one after the other where several have a key."""
    result: dict[str, list[Any]] = {}
    for each in patches:
        for key, found in each.items():
            result[key] = [*result.get(key, ()), *found]
    return result


def same_patches(one: Patches, other: Patches) -> bool:
    """Whether patches are the same objects with the same strengths."""
    return one.keys() == other.keys() and all(
        [_identity(patch) for patch in one[key]] == [_identity(patch) for patch in other[key]]
        for key in one
    )


def _identity(patch: Any) -> tuple[Any, ...]:
    strength, what, strength_model, offset, function = patch
    return strength, id(what), strength_model, offset, id(function)


def operand_bytes(module: nn.Module, loras: Loras) -> int:
    """Returns what the operands of LoRAs, by their layers' paths, take of the device."""
    nbytes = 0
    for path, found in loras.items():
        layer = module.get_submodule(path)
        assert isinstance(layer, Linear)
        plain, others = _by_kind(found)
        rank = stacked_rank(len(lora.down) for lora in plain)
        numel = rank * (layer.in_features + layer.out_features)
        numel += sum(other.first.numel() + other.second.numel() for other in others)
        nbytes += numel * layer.compute_dtype.itemsize
    return nbytes


class LoraOperands:
    """The LoRAs of one model's linear layers, plain ones of a layer as one."""

    def __init__(self, device: torch.device) -> None:
        """Takes nothing yet.

        Args:
            device: that computes.
        """
        self._device = device
        self._loras: dict[str, list[Operand]] = {}
        self._stacked: dict[str, tuple[Tensor, ...]] = {}
        self._scales = torch.empty(0)

    def move(self, module: nn.Module, device: torch.device) -> None:
        """Has a device compute from now on."""
        if device != self._device:
            self._device, self._scales = device, self._scales.to(device)
            self.place(module)

    def set(self, module: nn.Module, loras: Loras) -> bool:
        """Takes LoRAs by their layers' paths; in use are those that were there already.

        Returns:
            whether layers need other tensors than before. Other scales are in place at once.
        """
        before, self._loras = self._loras, dict(loras)
        same = _tensors(before) == _tensors(self._loras)
        if not same:
            self._stacked = {path: self._stack(module, path, before) for path in self._loras}
            width = max((len(_scales_of(found)) for found in self._loras.values()), default=0)
            shape = len(self._loras), -(-width // SCALES_APART) * SCALES_APART
            # Written to in one mode and used in another.
            with torch.inference_mode(False):
                self._scales = torch.zeros(shape, device=self._device)
        if not self._loras:
            return not same
        scales = torch.zeros(self._scales.shape)
        for row, found in zip(scales, self._loras.values(), strict=True):
            of_layer = _scales_of(found)
            row[: len(of_layer)] = torch.tensor(of_layer)
        self._scales.copy_(scales)
        return not same

    def stacked(self) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
        """Yields each layer's path with its tensors on the host.

        Those are (R, I) and (O, R) of all plain LoRAs, if there are any, then two of each LoKr.
        """
        yield from self._stacked.items()

    def operands(self, path: str, *tensors: Tensor) -> tuple[Adapter, ...]:
        """Returns a layer's operands, made of copies of its tensors on the device."""
        row = self._scales[list(self._loras).index(path)]
        plain, others = _by_kind(self._loras[path])
        made: list[Adapter] = []
        start = 0
        if plain:
            start = len(tensors[0])
            made.append(LowRank(tensors[0], tensors[1], row[:start].detach()))
        for number in range(len(others)):
            first, second = tensors[2 * len(made) :][:2]
            place = start + number * SCALES_APART
            made.append(Kronecker(first, second, row[place : place + 1].detach()))
        return tuple(made)

    def place(self, module: nn.Module) -> None:
        """Copies the operands to the device, for layers whose weights nobody streams."""
        for layer in module.modules():
            if isinstance(layer, Linear):
                layer.adapters = ()
        for path, tensors in self.stacked():
            layer = module.get_submodule(path)
            assert isinstance(layer, Linear)
            # Of one mode in whichever they are made: compiled code tells them apart.
            with torch.inference_mode(False):
                on_device = [tensor.to(self._device) for tensor in tensors]
                layer.adapters = self.operands(path, *on_device)

    def _stack(self, module: nn.Module, path: str, before: Loras) -> tuple[Tensor, ...]:
        loras = self._loras[path]
        if path in before and _tensors({path: before[path]}) == _tensors({path: loras}):
            return self._stacked[path]
        layer = module.get_submodule(path)
        assert isinstance(layer, Linear)
        dtype = layer.compute_dtype
        plain, others = _by_kind(loras)
        pairs = [(lora.down.flatten(1), lora.up.flatten(1)) for lora in plain]
        of_others = [
            tensor.to(dtype).contiguous()
            for other in others
            for tensor in (other.first, other.second)
        ]
        return (*(stacked(pairs, dtype) if pairs else ()), *of_others)


def _by_kind(loras: Iterable[Operand]) -> tuple[list[Lora], list[KroneckerLora]]:
    loras = list(loras)
    return (
        [one for one in loras if isinstance(one, Lora)],
        [one for one in loras if isinstance(one, KroneckerLora)],
    )


def _scales_of(loras: Iterable[Operand]) -> list[float]:
    """Returns the scales of a layer's operands, where `LoraOperands.operands` expects them."""
    plain, others = _by_kind(loras)
    scales = [lora.scale for lora in plain for _ in range(len(lora.down))]
    scales += [0.0] * (stacked_rank([len(scales)]) - len(scales))
    for other in others:
        scales += [other.scale] + [0.0] * (SCALES_APART - 1)
    return scales


def _tensors(loras: Loras) -> dict[str, list[tuple[int, int]]]:
    return {path: [lora.tensors for lora in found] for path, found in loras.items()}
