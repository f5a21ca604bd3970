"""What one pass over a video remembers of the frames it has already seen."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FeatureCache:
    """The last input frames of every causal convolution, for one pass over one video.

    A video goes through the network in chunks: its first frame alone, then one latent frame at a
    time. Each convolution in time needs the frames just before its chunk; they live here and not
    in the modules, so that passes in different threads do not disturb each other.
    """

    def __init__(self) -> None:
        self.first = True
        """Whether the current chunk is the video's first frame."""
        self._past: dict[nn.Module, Tensor] = {}

    def prepend(self, conv: nn.Module, x: Tensor, frames: int = 2) -> Tensor:
        """Returns `x` behind the `frames` frames that came before it, and remembers its last ones.

        Frames before the video are zero. In front of a lone frame they are left out, since
        `Conv3d` then leaves out the kernel taps that would meet them.

        Args:
            conv: the convolution the result is for.
            x: (B, C, T, H, W).
            frames: frames that `conv` needs of the past.

        Returns:
            (B, C, frames + T, H, W), or `x` itself for the first frame of a video.
        """
        past = self._past.get(conv)
        if past is None:
            padded = F.pad(x, (0, 0, 0, 0, frames, 0))
            # A copy, because a view would keep all of `padded` alive until the next chunk.
            self._past[conv] = padded[:, :, -frames:].clone()
            return x if x.shape[2] == 1 else padded
        padded = torch.cat([past, x], dim=2)
        past.copy_(padded[:, :, -frames:])
        return padded
