"""Attention to several prompts over the time of a video: each token to those of its frame.

What tokens attended to of each of their prompts is added up by the prompts' weights, before the
layer's output projection. Frames of one prompt cost no more than they do without a schedule.

Shape legend: B batch, L tokens, S text tokens, C hidden width, H heads, D head width, N prompts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from ..attention import AttentionFn
from .attention_layers import Attended, TextLayer, attend_to_text

Share = tuple[int, float]
"""Number of a prompt, and its weight."""


@dataclass(frozen=True)
class Stretch:
    """Tokens in a row that attend to the same prompts by the same weights."""

    tokens: slice
    shares: tuple[Share, ...]


def stretches(weights: Sequence[Sequence[float]], tokens_per_frame: int) -> tuple[Stretch, ...]:
    """Returns a video's tokens in their order.

    Args:
        weights: N for each latent frame.
        tokens_per_frame: of the latent.
    """
    found, start = [], 0
    for row, frames in groupby(tuple(row) for row in weights):
        end = start + tokens_per_frame * len(list(frames))
        shares = tuple((number, weight) for number, weight in enumerate(row) if weight > 0)
        found.append(Stretch(slice(start, end), shares))
        start = end
    return tuple(found)


def blended(
    parts: Sequence[Stretch], q: Tensor, run: slice, attended: Callable[[int, Tensor], Tensor]
) -> Tensor:
    """Returns what a run of tokens attended to, of the shape of q (B, run, ...).

    Args:
        parts: of the whole video.
        q: queries of the run.
        run: its tokens.
        attended: returns what queries attend to of a prompt, by its number.
    """
    return torch.cat([_sum(shares, q[:, of], attended) for of, shares in _within(parts, run)], 1)


def _within(parts: Sequence[Stretch], run: slice) -> Iterator[tuple[slice, tuple[Share, ...]]]:
    """Yields the stretches of a run, counted from where it begins."""
    for part in parts:
        start, stop = max(part.tokens.start, run.start), min(part.tokens.stop, run.stop)
        if start < stop:
            yield slice(start - run.start, stop - run.start), part.shares


def _sum(shares: Sequence[Share], q: Tensor, attended: Callable[[int, Tensor], Tensor]) -> Tensor:
    if len(shares) == 1:
        return attended(shares[0][0], q)
    total = sum(weight * attended(number, q).float() for number, weight in shares)
    assert isinstance(total, Tensor)
    return total.to(q.dtype)


@dataclass(frozen=True)
class ScheduledText:
    """A `TextAttention` to several prompts; the one that a forward pass was given is not used."""

    embedded: Tensor
    """The prompts (N, S, C), in the blocks' compute dtype."""
    parts: tuple[Stretch, ...]

    def __call__(self, layer: TextLayer, text: Tensor, attend: AttentionFn) -> Attended:
        """See `TextAttention`."""
        used = {number for part in self.parts for number, _ in part.shares}
        prompts = {
            number: attend_to_text(layer, self.embedded[number].expand(len(text), -1, -1), attend)
            for number in sorted(used)
        }

        def attended(q: Tensor, run: slice) -> Tensor:
            return blended(self.parts, q, run, lambda number, of: prompts[number](of, run))

        return attended
