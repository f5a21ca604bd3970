"""Random LoRAs of a rank that is usual: what every benchmark of a forward pass has a row with."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wan_model.errors import BackendError
from wan_model.offload import Extra
from wan_model.quant import Linear, LowRank

RANK = 64
WITH_LORA = f" with a LoRA of rank {RANK}"
"""Behind a contestant's name."""

SCALE = 0.05
"""Of the LoRA's effect to a usual weight's, about."""


def give(model: nn.Module, device: torch.device) -> bool:
    """Gives the blocks' quantized layers a LoRA each; others have theirs merged.

    Returns:
        whether there are any.
    """
    layers = list(quantized(model))
    for number, (_, layer) in enumerate(layers):
        layer.adapters = operands(*tensors(layer, number, device))
    return bool(layers)


class Worn:
    """The same LoRAs, put on and taken off again."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._model, self._device = model, device
        self._layers = [layer for _, layer in quantized(model)]
        self._adapters: list[tuple[Any, ...]] = []

    def set(self, on: bool) -> None:
        """Puts them on or takes them off.

        Raises:
            BackendError: if they would be merged.
        """
        if on and not self._layers:
            raise BackendError("LoRAs are merged into these weights: the pass is that without one.")
        if on and not self._adapters:
            give(self._model, self._device)
            self._adapters = [layer.adapters for layer in self._layers]
        for layer, adapters in zip(self._layers, self._adapters, strict=False):
            layer.adapters = adapters if on else ()


def extras(model: nn.Module) -> dict[int | None, list[Extra]]:
    """Returns the same LoRAs as what travels with the blocks."""
    found: dict[int | None, list[Extra]] = {}
    for number, (block, layer) in enumerate(quantized(model)):
        a, b = tensors(layer, number, torch.device("cpu"))
        device = torch.device("cuda") if torch.cuda.is_available() else a.device
        make = partial(operands, scale=torch.full((RANK,), SCALE, device=device))
        found.setdefault(block, []).append(Extra(layer, "adapters", (a, b), make))
    return found


def write(path: Path, model: nn.Module) -> None:
    """Writes the same LoRAs as a file that ComfyUI reads, unless it is there."""
    if path.exists():
        return
    state: dict[str, Tensor] = {}
    names = {id(part): name for name, part in model.named_modules()}
    for number, (_, layer) in enumerate(linears(model)):
        down, up = tensors(layer, number, torch.device("cpu"))
        name = f"diffusion_model.{names[id(layer)]}"
        state |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    save_file(state, path)


def tensors(layer: Linear, seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns (R, I) and (O, R), drawn on the host."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (RANK, layer.in_features), (layer.out_features, RANK)
    a, b = (torch.randn(shape, generator=generator) for shape in shapes)
    b /= (RANK * layer.in_features) ** 0.5
    dtype = layer.compute_dtype
    return a.to(device, dtype), b.to(device, dtype)


def operands(a: Tensor, b: Tensor, scale: Tensor | None = None) -> tuple[LowRank, ...]:
    """Returns what a layer multiplies with."""
    return (LowRank(a, b, torch.full((RANK,), SCALE, device=a.device) if scale is None else scale),)


def quantized(model: nn.Module) -> Iterator[tuple[int, Linear]]:
    """Yields the quantized linear layers of the blocks, with the number of their block."""
    return (found for found in linears(model) if found[1].format.is_quantized)


def linears(model: nn.Module) -> Iterator[tuple[int, Linear]]:
    """Yields the linear layers of the blocks, with the number of their block."""
    for number, block in enumerate(model.get_submodule("blocks").children()):
        for layer in block.modules():
            if isinstance(layer, Linear):
                yield number, layer
