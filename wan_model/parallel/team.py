"""The ranks that share a piece of work, and how rows of tensors travel between them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


def shares(count: int, ranks: int) -> tuple[int, ...]:
    """Returns how many of `count` things each rank takes; the first ones take one more."""
    least, more = divmod(count, ranks)
    return tuple(least + (rank < more) for rank in range(ranks))


@dataclass(frozen=True)
class Team:
    """A process group that this process belongs to."""

    group: dist.ProcessGroup

    @property
    def rank(self) -> int:
        """Number of this process in the group."""
        return self.group.rank()

    @property
    def ranks(self) -> int:
        """Processes of the group."""
        return self.group.size()

    def exchange(self, x: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        """Sends rows to all ranks and returns those of all ranks, in their order.

        Args:
            x: rows on the first axis, contiguous: those for the first rank, then the second, ...
            sent: how many rows go to each rank.
            received: how many rows come from each.
        """
        out = x.new_empty((sum(received), *x.shape[1:]))
        dist.all_to_all_single(out, x, list(received), list(sent), group=self.group)
        return out

    def gather(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """Returns the rows of all ranks, in their order.

        Args:
            x: rows of this rank on the first axis.
            counts: how many rows each rank has; they differ by one at most.
        """
        most = max(counts)
        mine = torch.cat((x, x.new_zeros((most - len(x), *x.shape[1:])))) if len(x) < most else x
        out = x.new_empty((most * self.ranks, *x.shape[1:]))
        parts = out.split(most)
        dist.all_gather(list(parts), mine.contiguous(), group=self.group)
        if min(counts) == most:
            return out
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
