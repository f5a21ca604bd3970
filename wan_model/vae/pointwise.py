"""The work between the convolutions, which is bound by memory: few passes make it fast.

Convolutions leave their bias to whatever comes next, since cuDNN would add it in a pass of its own.

Shape legend: B batch, H height, W width, C channels.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Past = tuple[Tensor, Tensor]
"""The two frames before the current one, the older first."""


class Pointwise(Protocol):
    """One way to do it."""

    def norm_silu(
        self, x: Tensor, bias: Tensor | None, norm: nn.Module, past: Past
    ) -> tuple[Tensor, Tensor]:
        """Returns silu(norm(x + bias)), behind the frames before it (B, H, W, 3C) and alone.

        Args:
            x: (B, H, W, C), contiguous; with a bias its values are lost.
            bias: (C,) or none.
            norm: an RMSNorm.
            past: the two frames before, as `x`; the values of the older may be lost.
        """
        ...

    def add(self, y: Tensor, bias: Tensor, x: Tensor | None) -> Tensor:
        """Returns y + bias + x in the memory of `y`.

        Args:
            y: (B, H, W, C), contiguous.
            bias: (C,).
            x: as `y`, or none.
        """
        ...

    def interleave(self, y: Tensor, bias: Tensor, x: Tensor | None) -> Tensor:
        """Returns an upsampled frame (B, 2H, 2W, C) of its phases; see `upsampling_phases`.

        Args:
            y: (B, H + 1, W + 1, 4C), contiguous.
            bias: (C,), added to the result.
            x: (B, H, W, C) or (B, H, W, 2C), contiguous, or none: also added, each pixel to the
                2 x 2 in its place. Of 2C channels, pairs go to the upper and the lower row.
        """
        ...


class PlainPointwise:
    """PyTorch's own operations: any device and dtype, with gradients."""

    def norm_silu(
        self, x: Tensor, bias: Tensor | None, norm: nn.Module, past: Past
    ) -> tuple[Tensor, Tensor]:
        """See `Pointwise`."""
        if bias is not None:
            x = x.add_(bias)
        frame = F.silu(norm(x.movedim(-1, 1)).movedim(1, -1), inplace=True)
        return torch.cat([*past, frame], dim=-1), frame

    def add(self, y: Tensor, bias: Tensor, x: Tensor | None) -> Tensor:
        """See `Pointwise`."""
        y = y.add_(bias)
        return y if x is None else y.add_(x)

    def interleave(self, y: Tensor, bias: Tensor, x: Tensor | None) -> Tensor:
        """See `Pointwise`."""
        batch, height, width = y.shape[0], y.shape[1] - 1, y.shape[2] - 1
        y = y.unflatten(-1, (2, 2, -1))
        out = y.new_empty(batch, height, 2, width, 2, y.shape[-1])
        for p in (0, 1):
            for q in (0, 1):
                out[:, :, p, :, q] = y[:, p : p + height, q : q + width, p, q]
        if x is not None:
            pairs = x.unflatten(-1, (y.shape[-1], -1)).movedim(-1, 2)
            out += pairs.unsqueeze(4)
        return self.add(out.flatten(1, 2).flatten(2, 3), bias, None)


PLAIN = PlainPointwise()
