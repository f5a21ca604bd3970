"""Work on runs of tokens, so that temporaries stay small however long the video is.

At 720p81 one fp32 copy of the hidden state takes 1.4 GiB and the FFN's inner one 2 GiB in bf16.
Everything but self-attention is local to a token, so it is done run by run.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

RUN_TOKENS = 8192
"""Tokens of one run: long enough to keep a GPU's matrix units full, short beside a video."""


def runs(length: int) -> Iterator[slice]:
    """Yields slices that cover `length` tokens."""
    for start in range(0, length, RUN_TOKENS):
        yield slice(start, min(start + RUN_TOKENS, length))


@dataclass(frozen=True)
class Residual:
    """How branches are added to the residual stream; the same in all of a forward pass."""

    recorded: bool
    """Whether gradients are recorded. What the backward pass needs is then left as it is;
    otherwise sums take the place of the tokens."""

    def add(self, x: Tensor, branch: Tensor) -> Tensor:
        """Returns x + branch in the dtype of x."""
        return (x + branch).to(x.dtype) if self.recorded else x.add_(branch)

    def update(self, x: Tensor, step: Callable[[Tensor, slice], Tensor]) -> Tensor:
        """Returns step(x[:, run], run) of all runs; x itself where no gradients are recorded.

        Args:
            x: residual stream (B, L, C).
            step: returns the tokens with branches added by `add`.
        """
        updated = [step(x[:, run], run) for run in runs(x.shape[1])]
        return torch.cat(updated, dim=1) if self.recorded else x


IN_PLACE = Residual(recorded=False)
"""Without gradients."""
