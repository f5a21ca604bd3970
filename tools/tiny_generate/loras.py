"""LoRAs for the tiny Wan2.2, through `wan_model` alone."""

from pathlib import Path

import torch

from wan_model.dit import WanDiT
from wan_model.lora import Addition, LoraModules, open_lora
from wan_model.presets import Distilled
from wan_model.quant import Linear, LowRank
from wan_model.quant.adapters import stacked


def give_lora(dit: WanDiT, file: Path) -> Distilled | None:
    """Puts a LoRA of plain linear layers on a model, and returns what that makes of it.

    Raises:
        CheckpointError: if the file has nothing for the model.
        ValueError: if it has something else as well.
    """
    lora = open_lora(file)
    shapes = {name: tuple(tensor.shape) for name, tensor in dit.named_parameters()}
    translated = LoraModules(lora).translate(shapes, None)
    for name, changes in translated.changes.items():
        layer = dit.get_submodule(name.removesuffix(".weight"))
        additions = [change for change in changes if isinstance(change, Addition)]
        pairs = [addition.pair for addition in additions if addition.pair is not None]
        if not isinstance(layer, Linear) or len(pairs) != len(changes):
            raise ValueError(
                f"{file.name} cannot be put on the tiny model. Got a change of {name}, need LoRAs "
                "of linear layers only. Choose another file."
            )
        a, b = stacked([(pair.down, pair.up) for pair in pairs], layer.compute_dtype)
        scales = [torch.full((len(pair.down),), float(pair.scale)) for pair in pairs]
        scale = torch.zeros(len(a))
        scale[: sum(map(len, scales))] = torch.cat(scales)
        device = layer.weight.device
        layer.adapters = (LowRank(a.to(device), b.to(device), scale.to(device)),)
    return lora.distilled
