"""LoRAs on a frozen transformer, and their keys in a file.

Shape legend: O output features, I input features, R rank.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wan_model.dit import WanDiT
from wan_model.quant import Linear, LinearOperands

from .files import State

LEAVES = {"down": "lora_down.weight", "up": "lora_up.weight"}
"""Of LightX2V's files, which also have an alpha beside them."""

HEAD = "head.head"


@dataclass(frozen=True)
class FrozenMatmul:
    """A matmul with the stored weight."""

    name: str = "frozen"

    def __call__(self, layer: LinearOperands, x: Tensor) -> Tensor:
        """See `quant.Matmul`."""
        dtype = layer.compute_dtype
        bias = None if layer.bias is None else layer.bias.to(dtype)
        return F.linear(x.to(dtype), layer.weight.to(dtype), bias)


FROZEN = FrozenMatmul()


class LoraMatmul(nn.Module):
    """A matmul with the stored weight, and with a LoRA that is trained."""

    def __init__(self, layer: Linear, rank: int) -> None:
        """Begins with a LoRA that changes nothing."""
        super().__init__()
        self.name = "with a LoRA"
        device = layer.weight.device
        down = torch.empty(rank, layer.in_features)
        nn.init.kaiming_uniform_(down, a=math.sqrt(5))
        self.down = nn.Parameter(down.to(device))
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank, device=device))

    def forward(self, layer: LinearOperands, x: Tensor) -> Tensor:
        """See `quant.Matmul`; alpha is the rank, so that the scale is 1."""
        dtype = layer.compute_dtype
        inner = F.linear(x.to(dtype), self.down.to(dtype))
        return FROZEN(layer, x) + F.linear(inner, self.up.to(dtype))


def lora_layers(dit: WanDiT) -> dict[str, Linear]:
    """Returns the layers that LoRAs are for: the linears of the blocks, and the last one."""
    return {
        name: module
        for name, module in dit.named_modules()
        if isinstance(module, Linear) and (name.startswith("blocks.") or name == HEAD)
    }


def freeze(dit: WanDiT) -> None:
    """Leaves weights as they are; those of the blocks have been rounded to fp8 before."""
    dit.requires_grad_(False)
    for layer in lora_layers(dit).values():
        layer.matmul = FROZEN


def give_loras(dit: WanDiT, rank: int, state: State | None = None) -> None:
    """Gives a frozen transformer LoRAs: those of `state`, or new ones."""
    for name, layer in lora_layers(dit).items():
        matmul = layer.matmul = LoraMatmul(layer, rank)
        if state is not None:
            with torch.no_grad():
                for leaf in LEAVES:
                    getattr(matmul, leaf).copy_(state[f"{name}.matmul.{leaf}"])


def file_state(state: State) -> State:
    """Returns weights of a stage under the keys of LightX2V's files."""
    result: State = {}
    for key, tensor in state.items():
        name, leaf = key.split(".matmul.")
        result[f"diffusion_model.{name}.{LEAVES[leaf]}"] = tensor
        if leaf == "down":
            result[f"diffusion_model.{name}.alpha"] = torch.tensor(float(len(tensor)))
    return result
