"""Each rank runs some of the blocks, so that each device holds their weights only.

The tokens go from rank to rank, once in a pass, which any link is fast enough for. One sample keeps
one device at work at a time; of several, each follows the one before.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor, nn

from ..dit import BlockFn, BlockInputs, BlockRunner
from ..errors import SettingsError
from ..offload import Limits
from .team import Team, shares


class Elsewhere(nn.Module):
    """Stands for a block that is on another rank."""


class LayerLine:
    """The ranks, first blocks first."""

    def __init__(self, team: Team, blocks: int) -> None:
        """Takes a team and the number of all blocks.

        Raises:
            SettingsError: if there are fewer of them than ranks.
        """
        if blocks < team.ranks:
            raise SettingsError(
                f"The model has too few blocks for so many GPUs. Got {team.ranks} for {blocks}, "
                f"need {blocks} at most. Use fewer."
            )
        counts = shares(blocks, team.ranks)
        start = sum(counts[: team.rank])
        self.own = slice(start, start + counts[team.rank])
        """The blocks of this rank."""
        self._blocks = blocks
        self._team = team
        self._sent: list[tuple[object, Tensor]] = []

    def drop_others(self, blocks: nn.ModuleList) -> None:
        """Lets the weights of other ranks' blocks go; names of blocks stay."""
        for number in range(len(blocks)):
            if number not in range(self.own.start, self.own.stop):
                blocks[number] = Elsewhere()

    def part_of(self, limits: Limits) -> Limits:
        """Returns the limits of this rank, of those of all blocks."""
        count = self.own.stop - self.own.start
        swap, ahead = limits.blocks_to_swap, limits.prefetch_blocks
        swap = None if swap is None else -(-swap * count // self._blocks)
        ahead = None if ahead is None else min(ahead, count)
        return replace(limits, blocks_to_swap=swap, prefetch_blocks=ahead)

    def around(self, runner: BlockRunner) -> BlockRunner:
        """Returns a runner of all blocks, of which `runner` is given those of this rank.

        Only the last rank returns the tokens after all of them.
        """

        def run(blocks: Iterable[BlockFn], x: Tensor, inputs: BlockInputs, /) -> Tensor:
            rank, last = self._team.rank, self._team.ranks - 1
            x = x.contiguous()
            if rank > 0:
                self._team.receive(x, rank - 1)
            x = runner(list(islice(blocks, self.own.start, self.own.stop)), x, inputs)
            if rank < last:
                self._sent.append((self._team.start_send(x, rank + 1), x))
            return x

        return run

    def result(self, parts: Sequence[Tensor]) -> Tensor:
        """Returns the last rank's samples, one after the other, on all ranks."""
        whole = torch.cat(list(parts))
        self._team.broadcast(whole, self._team.ranks - 1)
        self._sent.clear()  # they have arrived, or there would be no result
        return whole
