"""What one pass over a video remembers of the frames it has already seen.

A causal convolution over time needs the current frame and the two before it. Two are kept for each
convolution. To convolve, all three are laid side by side in the channels of one tensor, a window,
so that the convolution over time and space becomes an ordinary one over space, with three times
the channels. A window lives no longer than its convolution. Before the video come frames of zeros.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .borders import WHOLE, Borders
from .pointwise import PLAIN, Past, Pointwise


class FeatureCache:
    """Past frames of all convolutions, and the means to make more, for one pass over one video.

    They live here and not in the modules, so that passes in different threads do not disturb each
    other.

    Shape legend: B batch, H height, W width, C channels.
    """

    def __init__(self, pointwise: Pointwise = PLAIN, borders: Borders = WHOLE) -> None:
        self.first = True
        """Whether the current chunk is the video's first frame."""
        self.pointwise = pointwise
        self.borders = borders
        self._past: dict[nn.Module, Past] = {}
        self._made: dict[nn.Module, Tensor] = {}

    def append(self, conv: nn.Module, frame: Tensor) -> Tensor:
        """Returns the window (B, H, W, 3C) of `conv` that ends with a frame (B, H, W, C)."""
        before, last = self._before(conv, frame)
        self._past[conv] = last, frame
        return torch.cat([before, last, frame], dim=-1)

    def append_normed(
        self, conv: nn.Module, norm: nn.Module, x: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """Returns the window (B, H, W, 3C) of `conv` that ends with silu(norm(x + bias)).

        Args:
            conv: the convolution that the frame is for.
            norm: an RMSNorm.
            x: (B, H, W, C); with a bias its values are lost.
            bias: (C,), left out by the convolution that made `x`.
        """
        past = self._before(conv, x)
        window, frame = self.pointwise.norm_silu(x, bias, norm, past)
        self._past[conv] = past[1], frame
        return window

    def once(self, module: nn.Module, make: Callable[[], Tensor]) -> Tensor:
        """Returns what `make` returns, called for `module` once in a pass."""
        if module not in self._made:
            self._made[module] = make()
        return self._made[module]

    def _before(self, conv: nn.Module, frame: Tensor) -> Past:
        """Returns the two frames before `frame`; the cache lets go of them."""
        past = self._past.pop(conv, None)
        if past is None:
            past = torch.zeros_like(frame), torch.zeros_like(frame)
        return past
