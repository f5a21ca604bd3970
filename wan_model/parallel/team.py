"""The ranks that share a piece of work, and how rows of tensors travel between them."""

from collections.abc import Callable, Sequence
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
        work = dist.all_to_all_single(
            out, x, list(received), list(sent), group=self.group, async_op=True
        )
        assert work is not None, "this process is in the group"
        work.wait()
        return out

    def start_trade(
        self, give: Sequence[Sequence[Tensor]], take: Sequence[Sequence[Tensor]]
    ) -> Callable[[], None]:
        """Has tensors travel between ranks, each to a place of its own, while this rank computes.

        Args:
            give: for each rank, contiguous tensors that it gets. This rank itself gets none.
            take: for each rank, contiguous places of what it gives, in its order.

        Returns:
            what waits until they are there. All tensors are to be kept until then.
        """
        operations: list[dist.P2POp] = []
        for rank in range(self.ranks):
            if rank == self.rank:
                continue
            peer = dist.get_global_rank(self.group, rank)
            for call, tensors in ((dist.isend, give[rank]), (dist.irecv, take[rank])):
                operations += [dist.P2POp(call, x, peer, self.group) for x in tensors if x.numel()]
        works = dist.batch_isend_irecv(operations) if operations else []

        def wait() -> None:
            for work in works:
                work.wait()

        return wait

    def start_send(self, x: Tensor, to: int) -> object:
        """Sends a tensor, which is to be kept until it has arrived, while this rank computes."""
        return dist.isend(x, dist.get_global_rank(self.group, to), group=self.group)

    def receive(self, x: Tensor, of: int) -> None:
        """Takes the place of x with what a rank sends."""
        dist.recv(x, dist.get_global_rank(self.group, of), group=self.group)

    def broadcast(self, x: Tensor, of: int) -> None:
        """Takes the place of x, on all ranks, with that of one."""
        dist.broadcast(x, dist.get_global_rank(self.group, of), group=self.group)

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
