"""What lies beyond the rows of a frame that a pass computes: nothing, or the rows of other devices.

A part of a frame may come with some rows of its neighbours, above and below. Each convolution sees
zeros beyond the outermost of them, so these are wrong afterwards and dropped.

Shape legend: B batch, H height, W width, C channels, P pixels (H * W) of a frame.
"""

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor


class Borders(Protocol):
    """How layers look beyond the rows that a pass has."""

    def reach(self, x: Tensor, rows: int) -> Tensor:
        """Returns x (B, H, W, C) with rows of its neighbours for so many convolutions.

        There may be more of them, and fewer where neighbours have no more: one at least.
        """
        ...

    def right(self, x: Tensor) -> Tensor:
        """Returns a convolution's result without the rows for which it saw zeros in place of x."""
        ...

    def like(self, x: Tensor, y: Tensor, scale: int = 1) -> Tensor:
        """Returns x with `scale` times the rows of its neighbours that y has."""
        ...

    def halved(self, x: Tensor, weight: Tensor) -> Tensor:
        """Returns the convolution (B, H/2, W/2, O) in steps of two, with a row below of x."""
        ...

    def everywhere(self, pixels: Tensor) -> Tensor:
        """Returns the pixels (B, 1, P, C) of the whole frame."""
        ...


class WholeFrames:
    """All rows are here, and zeros around them."""

    def reach(self, x: Tensor, rows: int) -> Tensor:  # noqa: ARG002
        """See `Borders`."""
        return x

    def right(self, x: Tensor) -> Tensor:
        """See `Borders`."""
        return x

    def like(self, x: Tensor, y: Tensor, scale: int = 1) -> Tensor:  # noqa: ARG002
        """See `Borders`."""
        return x

    def halved(self, x: Tensor, weight: Tensor) -> Tensor:
        """See `Borders`."""
        return convolve_halved(x, weight)

    def everywhere(self, pixels: Tensor) -> Tensor:
        """See `Borders`."""
        return pixels


WHOLE = WholeFrames()


def convolve(
    x: Tensor, weight: Tensor, stride: int = 1, padding: int | tuple[int, int] = 0
) -> Tensor:
    """Returns the 2-D convolution of frames x (B, H, W, C), without bias."""
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, None, stride, padding)
    return y.permute(0, 2, 3, 1).contiguous()


def convolve_halved(x: Tensor, weight: Tensor) -> Tensor:
    """Returns the convolution in steps of two (B, H/2, W/2, O), with zeros below and right of x."""
    return convolve(F.pad(x, (0, 0, 0, 1, 0, 1)), weight, stride=2)
