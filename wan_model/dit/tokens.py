"""Work on runs of tokens, so that temporaries stay small however long the video is.

At 720p81 one fp32 copy of the hidden state takes 1.4 GiB and the FFN's inner one 2 GiB in bf16.
Everything but self-attention is local to a token, so it is done run by run.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

RUN_TOKENS = 8192
"""Tokens of one run: long enough to keep a GPU's matrix units full, short beside a video."""


def runs(length: int) -> Iterator[slice]:
    """Yields slices that cover `length` tokens.

    While gradients are recorded there is one run: writing results in place, which makes runs
    worthwhile, would destroy what the backward pass needs.
    """
    step = length if torch.is_grad_enabled() else RUN_TOKENS
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def update_tokens(x: Tensor, update: Callable[[Tensor, slice], Tensor]) -> Tensor:
    """Returns update(x[:, run], run) of all runs; x itself where no gradients are recorded.

    Args:
        x: residual stream (B, L, dim).
        update: returns new tokens, in the place of the given ones as `add` does.
    """
    if torch.is_grad_enabled():
        return update(x, slice(None))
    for run in runs(x.shape[1]):
        update(x[:, run], run)
    return x


def add(x: Tensor, branch: Tensor) -> Tensor:
    """Returns x + branch in the dtype of x, in its place where no gradients are recorded."""
    return (x + branch).to(x.dtype) if torch.is_grad_enabled() else x.add_(branch)
