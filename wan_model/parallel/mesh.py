"""Which rank belongs to which teams."""

from dataclasses import dataclass

import torch.distributed as dist

from ..errors import SettingsError
from .degrees import Degrees
from .team import Team


@dataclass(frozen=True)
class Mesh:
    """The two teams of this rank. Neighbouring ranks share the tokens of the same samples."""

    samples: Team
    """Shares the samples of a batch."""
    tokens: Team
    """Shares the tokens of these samples."""

    @classmethod
    def of(cls, degrees: Degrees) -> "Mesh":
        """Makes the teams. All ranks of the process have to call it, with the same degrees.

        Raises:
            SettingsError: if the degrees are for another number of ranks.
        """
        ranks = dist.get_world_size()
        if degrees.ranks != ranks:
            raise SettingsError(
                f"The split is for another number of processes. Got {degrees.cfg} x "
                f"{degrees.ulysses} for {ranks} of them, need a product of {ranks}. Start as many "
                "processes, or split otherwise."
            )
        width = degrees.ulysses
        rows = [list(range(start, start + width)) for start in range(0, ranks, width)]
        columns = [list(column) for column in zip(*rows, strict=True)]
        return cls(samples=_team_of_this_rank(columns), tokens=_team_of_this_rank(rows))


def _team_of_this_rank(members: list[list[int]]) -> Team:
    group, _ = dist.new_subgroups_by_enumeration(members)
    assert isinstance(group, dist.ProcessGroup), "every rank is a member of one"
    return Team(group)
