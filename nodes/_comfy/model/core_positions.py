"""Rotations of tokens by core's means, where other nodes have changed those."""

from collections.abc import Mapping
from typing import Any

import torch
from comfy.ldm.flux.layers import EmbedND
from torch import Tensor

from ....wan_model.dit.rope import THETA, axis_widths
from .core_hooks import is_patched

OPTION = "rope_options"
"""Transformer option: stretches and moves the positions along each axis."""
AXES = (("scale_t", "shift_t"), ("scale_y", "shift_y"), ("scale_x", "shift_x"))


def core_embedder(head_dim: int) -> EmbedND:
    """Returns what core's Wan model has as `rope_embedder`; it has no weights."""
    return EmbedND(dim=head_dim, theta=THETA, axes_dim=list(axis_widths(head_dim)))  # pyright: ignore[reportArgumentType]


def is_cores_own(embedder: Any, head_dim: int) -> bool:
    """Whether an embedder rotates as ours does."""
    return (
        type(embedder) is EmbedND
        and not is_patched(embedder)
        and (embedder.theta, tuple(embedder.axes_dim)) == (THETA, axis_widths(head_dim))
    )


def positions(
    sizes: tuple[int, int, int],
    starts: tuple[float, float, float],
    steps: tuple[int, int, int],
    options: Mapping[str, Any],
    device: Any,
    dtype: Any,
) -> Tensor:
    """Returns the place of each token in raster order (1, L, 3), as core counts places.

    Args:
        sizes: places along time, height and width.
        starts: the first of each.
        steps: tokens along each.
        options: ComfyUI's transformer options.
        device: of the result.
        dtype: of the result.
    """
    changes = options.get(OPTION) or {}
    lines = []
    for size, start, count, (scale, shift) in zip(sizes, starts, steps, AXES, strict=True):
        first = start + changes.get(shift, 0.0)
        last = first + (size - 1) * changes.get(scale, 1.0)
        lines.append(torch.linspace(first, last, count, device=device, dtype=dtype))
    return torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1).view(1, -1, 3)
