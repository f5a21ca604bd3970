"""Self-attention of tokens that ranks share, which travel while others are computed.

A run of q, of k or of v is sent as soon as it is written, so it travels while the next is
projected; what the tokens attended to comes back run by run, while the first runs go on. Only v of
the last run and what comes back first are waited for.

Each run is put where it is in the video. Attention takes keys in any order, but rounds otherwise
then: in bf16 a pass would differ from that of one GPU by 1.7e-3.

Shape legend: B batch, L tokens of a run of this rank, A tokens of all ranks, H heads, D head width,
R ranks, G = H / R heads of this rank during attention.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..attention import AttentionFn
from ..dit.attention_layers import SelfAttention
from ..dit.block import tell_all
from ..dit.tokens import runs
from .degrees import check_ulysses
from .team import Team

Places = Sequence[Sequence[slice]]
"""Of each rank, where its runs are among all tokens."""


class SharedTokens:
    """The tokens of one rank: `VideoTokens`."""

    def __init__(
        self,
        team: Team,
        tokens: Sequence[int],
        layer: SelfAttention,
        attend: AttentionFn,
        x: Tensor,
    ) -> None:
        """Takes memory for q, k and v of all tokens.

        Args:
            team: shares the tokens.
            tokens: of each rank.
            layer: of the block.
            attend: over all tokens of some heads.
            x: tokens of this rank (B, L, C).

        Raises:
            SettingsError: if heads or tokens cannot be split over the ranks.
        """
        check_ulysses(layer.num_heads, sum(tokens), team.ranks)
        self._team, self._layer, self._attend = team, layer, attend
        self._like = x
        self._runs = _places(tokens)
        heads = layer.num_heads // team.ranks
        shape = (sum(tokens), x.shape[0], heads, layer.head_dim)
        self._all = [x.new_empty(shape, dtype=layer.compute_dtype) for _ in range(3)]
        self._parts: tuple[Tensor, ...] = ()
        """q, k and v of the run that is being written."""
        self._sent = 0
        """Of these of all runs."""
        self._travelling: list[tuple[Callable[[], None], list[list[Tensor]]]] = []

    def places(self, run: slice) -> Sequence[Tensor]:
        """See `VideoTokens`."""
        batch, device = self._like.shape[0], self._like.device
        self._parts = self._layer.empty_qkv(batch, run.stop - run.start, device)
        return self._parts

    def written(self) -> None:
        """See `VideoTokens`. Sends the heads of other ranks."""
        team = self._team
        run, which = divmod(self._sent, len(self._all))
        heads = self._parts[which].unflatten(2, (team.ranks, -1)).transpose(0, 1)  # (L, B, R, G, D)
        places = [self._all[which][places_of_rank[run]] for places_of_rank in self._runs]
        give: list[list[Tensor]] = []
        for rank in range(team.ranks):
            mine = rank == team.rank
            target = places[rank] if mine else heads.new_empty(heads[:, :, rank].shape)
            _wide(target).copy_(_wide(heads[:, :, rank]))
            give.append([] if mine else [target])
        self._travelling.append((team.start_trade(give, [[place] for place in places]), give))
        self._sent += 1
        if which == len(self._all) - 1:
            self._parts = ()  # before those of the next run are made

    def attended(self) -> Callable[[slice], Tensor]:
        """See `VideoTokens`."""
        for _ in range(self._sent // len(self._all), len(self._runs[0])):  # others have a run more
            tell_all(self.written, self.places(slice(0, 0)))
        for wait, _ in self._travelling:
            wait()
        self._travelling.clear()
        q, k, v = (whole.transpose(0, 1) for whole in self._all)
        self._all.clear()
        attended = self._layer.attention(self._attend, q, k, v)
        del q, k, v
        return _Returning(self._team, attended.transpose(0, 1).contiguous(), self._runs)


class _Returning:
    """What tokens of all ranks attended to, on its way back to the ranks that have them."""

    def __init__(self, team: Team, rows: Tensor, runs: Places) -> None:
        """Sends rows (A, B, G, D) run by run."""
        self._rows = rows
        self._coming: list[tuple[Callable[[], None], list[Tensor]]] = []
        """Of each run, what waits for it, and its heads (L, B, G, D) of each rank."""
        for number, mine in enumerate(runs[team.rank]):
            give = [[rows[places[number]]] for places in runs]
            parts = [
                rows[mine] if rank == team.rank else torch.empty_like(rows[mine])
                for rank in range(team.ranks)
            ]
            self._coming.append((team.start_trade(give, [[part] for part in parts]), parts))

    def __call__(self, _: slice) -> Tensor:
        """Returns (B, L, H, D) of the next run."""
        wait, parts = self._coming.pop(0)
        wait()
        while self._coming and not len(self._coming[0][1][0]):  # a run of other ranks
            self._coming.pop(0)[0]()
        return torch.cat([part.transpose(0, 1) for part in parts], dim=2)


def _wide(x: Tensor) -> Tensor:
    """Returns the same memory as numbers of 8 bytes, of which a GPU copies more at once."""
    return x if x.shape[-1] % (8 // x.itemsize) else x.view(torch.int64)


def _places(tokens: Sequence[int]) -> list[list[slice]]:
    """Returns `Places`, given the tokens of each rank; empty ones where others have a run more."""
    starts = [sum(tokens[:rank]) for rank in range(len(tokens))]
    found = [
        [slice(start + run.start, start + run.stop) for run in runs(count)]
        for start, count in zip(starts, tokens, strict=True)
    ]
    most = max(map(len, found))
    return [places + [slice(0, 0)] * (most - len(places)) for places in found]
