"""Three-dimensional rotary position embedding of video tokens.

Shape legend: B batch, L tokens, H heads, D head width, P = D / 2 rotated pairs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

THETA = 10000.0


@dataclass(frozen=True)
class Rotation:
    """Cosine and sine of every token's angles, fp32 (L, 1, P)."""

    cos: Tensor
    sin: Tensor

    def at(self, tokens: slice) -> "Rotation":
        """Returns the angles of a run of tokens."""
        return Rotation(self.cos[tokens], self.sin[tokens])


def axis_widths(head_dim: int) -> tuple[int, int, int]:
    """Returns the part of a head that encodes time, height and width: 44, 42, 42 of 128."""
    side = head_dim // 6 * 2
    return head_dim - 2 * side, side, side


def rotation(grid: tuple[int, int, int], head_dim: int, device: torch.device) -> Rotation:
    """Returns the angles of a (T, H, W) grid of tokens in raster order.

    Each axis has its own geometric series of frequencies, with the axis' own width in the
    exponent (`rope_params` in `wan/modules/model.py`). Made in float64, as there.
    """
    cos, sin = [], []
    for axis, (size, width) in enumerate(zip(grid, axis_widths(head_dim), strict=True)):
        exponent = torch.arange(0, width, 2, dtype=torch.float64, device="cpu") / width
        positions = torch.arange(size, dtype=torch.float64, device="cpu")
        angle = torch.outer(positions, THETA**-exponent)
        shape = [1, 1, 1, angle.shape[1]]
        shape[axis] = size
        for table, values in ((cos, angle.cos()), (sin, angle.sin())):
            table.append(values.float().to(device).view(shape).expand(*grid, -1))
    return Rotation(*(torch.cat(t, dim=-1).flatten(0, 2).unsqueeze(1) for t in (cos, sin)))


def rotate(x: Tensor, angles: Rotation) -> Tensor:
    """Rotates the neighbouring pairs (2i, 2i+1) of x (B, L, H, D) by their token's angles."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack(
        (even * angles.cos - odd * angles.sin, even * angles.sin + odd * angles.cos), dim=-1
    ).flatten(-2)
