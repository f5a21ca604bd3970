"""LoRA files of a toy model, written as their trainers write them."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from wan_model.lora import LoraModules, Translated, open_lora

DIM, FFN, RANK = 8, 16, 2
SHAPES = {
    "patch_embedding.weight": (DIM, 36, 1, 2, 2),
    "patch_embedding.bias": (DIM,),
    "text_embedding.0.weight": (DIM, 10),
    "time_projection.1.weight": (6 * DIM, DIM),
    "time_projection.1.bias": (6 * DIM,),
    **{
        f"blocks.{block}.{name}": shape
        for block in range(2)
        for name, shape in {
            "modulation": (1, 6, DIM),
            "norm3.weight": (DIM,),
            "norm3.bias": (DIM,),
            "ffn.0.weight": (FFN, DIM),
            "ffn.0.bias": (FFN,),
            "ffn.2.weight": (DIM, FFN),
            **{
                f"{attention}.{layer}.{leaf}": (DIM, DIM) if leaf == "weight" else (DIM,)
                for attention in ("self_attn", "cross_attn")
                for layer in "qkvo"
                for leaf in ("weight", "bias")
            },
            "self_attn.norm_q.weight": (DIM,),
        }.items()
    },
    "head.modulation": (1, 2, DIM),
    "head.head.weight": (64, DIM),
}
"""An I2V model's weights."""


def randn(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, the same for the same shape and seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + seed))


def weight(name: str) -> Tensor:
    """A weight of the model, fp64."""
    return randn(*SHAPES[name], seed=99).double()


def translated(
    folder: Path, tensors: dict[str, Tensor], expert: str | None = None, **metadata: str
) -> Translated:
    """Writes a file, and reads what it does to the toy model."""
    path = folder / "lora.safetensors"
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata or None)
    return LoraModules(open_lora(path)).translate(SHAPES, expert)  # pyright: ignore


def changed(result: Translated, name: str, strength: float = 1.0) -> Tensor:
    """A weight of the model under a file, fp64."""
    value = weight(name)
    for change in result.changes[name]:
        value = change.applied(value, strength)
    return value
