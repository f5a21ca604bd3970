"""Random LoRAs for layers, and what they are worth exactly."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wan_model.quant import Linear, LowRank, stacked


class Lora(NamedTuple):
    """As a file has it, and how strong it is."""

    down: Tensor
    up: Tensor
    scale: float


def lora(layer: Linear, rank: int, scale: float, seed: int = 0) -> Lora:
    """Returns a LoRA whose effect is about `scale` times that of a usual weight."""
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, layer.in_features, generator=generator)
    up = torch.randn(layer.out_features, rank, generator=generator)
    return Lora(down, up / (rank * layer.in_features) ** 0.5, scale)


def give(layer: Linear, loras: Iterable[Lora]) -> None:
    """Gives a layer the operands of LoRAs."""
    loras = list(loras)
    a, b = stacked([(one.down, one.up) for one in loras], layer.compute_dtype)
    scale = torch.zeros(len(a))
    parts = [torch.full((len(one.down),), one.scale) for one in loras]
    torch.cat(parts, out=scale[: sum(map(len, parts))])
    layer.adapters = (LowRank(a, b, scale),)


def give_all(module: nn.Module, rank: int, scale: float, seed: int = 0) -> None:
    """Gives every linear layer of a module a LoRA of its own."""
    layers = [part for part in module.modules() if isinstance(part, Linear)]
    for number, layer in enumerate(layers):
        give(layer, [lora(layer, rank, scale, 100 * seed + number)])


def exact_change(layer: Linear, loras: Iterable[Lora]) -> Tensor:
    """Returns what LoRAs add to a layer's weight, in fp64."""
    change = torch.zeros(layer.out_features, layer.in_features, dtype=torch.float64)
    for one in loras:
        change += one.scale * one.up.double() @ one.down.double()
    return change
