"""What lies beyond the rows of a frame that a pass computes: nothing, or the rows of other devices.

Shape legend: B batch, H height, W width, C channels, P pixels (H * W) of a frame.
"""

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor


class Borders(Protocol):
    """How layers look beyond the rows that a pass has."""

    def around(self, x: Tensor, weight: Tensor) -> Tensor:
        """Returns the convolution of x (B, H, W, C) with one pixel of what is around it.

        Args:
            x: frame or window.
            weight: (O, C, 3, 3), or (O, C, 2, 2) for one row and column more than x has.
        """
        ...

    def halved(self, x: Tensor, weight: Tensor) -> Tensor:
        """Returns the convolution (B, H/2, W/2, O) in steps of two, with a row below of x."""
        ...

    def everywhere(self, pixels: Tensor) -> Tensor:
        """Returns the pixels (B, 1, P, C) of the whole frame."""
        ...


class WholeFrames:
    """All rows are here, and zeros around them."""

    def around(self, x: Tensor, weight: Tensor) -> Tensor:
        """See `Borders`."""
        return convolve(x, weight, padding=1)

    def halved(self, x: Tensor, weight: Tensor) -> Tensor:
        """See `Borders`."""
        return convolve(F.pad(x, (0, 0, 0, 1, 0, 1)), weight, stride=2)

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
