"""Self-attention of tokens that ranks share, which travel while others are computed.

A run of q, k and v is sent as soon as it is written, so it travels while the next run is projected;
what the tokens attended to comes back run by run, while the first runs go on. Only the last run of
the one and the first of the other are waited for.

Attention takes keys in any order, and gives results in the order of the queries: tokens of all
ranks stay in the order in which they come, run by run and then rank by rank.

Shape legend: B batch, L tokens of a run of this rank, A tokens of all ranks, H heads, D head width,
R ranks, G = H / R heads of this rank during attention.
"""

from collections.abc import Callable, Sequence
from itertools import zip_longest

from einops import rearrange
from torch import Tensor

from ..attention import AttentionFn
from ..dit.attention_layers import SelfAttention
from ..dit.tokens import runs
from .degrees import check_ulysses
from .team import Team


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
        lengths = ([run.stop - run.start for run in runs(count)] for count in tokens)
        self._counts = list(zip_longest(*lengths, fillvalue=0))
        """Of each run, the tokens of each rank. Their numbers of runs may differ."""
        heads = layer.num_heads // team.ranks
        shape = (sum(tokens), x.shape[0], heads, layer.head_dim)
        self._all = [x.new_empty(shape, dtype=layer.compute_dtype) for _ in range(3)]
        self._places: tuple[Tensor, ...] = ()
        self._sent = 0
        self._travelling: list[tuple[Callable[[], object], Tensor]] = []

    def places(self, run: slice) -> Sequence[Tensor]:
        """See `VideoTokens`."""
        batch, device = self._like.shape[0], self._like.device
        self._places = self._layer.empty_qkv(batch, run.stop - run.start, device)
        return self._places

    def written(self) -> None:
        """See `VideoTokens`. Sends the heads of other ranks."""
        ranks = self._team.ranks
        place = self._place(self._sent)
        for part, whole in zip(self._places, self._all, strict=True):
            rows = rearrange(part, "b l (r g) d -> (r l) b g d", r=ranks).contiguous()
            sent = [part.shape[1]] * ranks
            wait = self._team.start_exchange(rows, sent, whole[place], self._counts[self._sent])
            self._travelling.append((wait, rows))
        self._places = ()
        self._sent += 1

    def attended(self) -> Callable[[slice], Tensor]:
        """See `VideoTokens`."""
        while self._sent < len(self._counts):  # other ranks have a run more
            self.places(slice(0, 0))
            self.written()
        for wait, _ in self._travelling:
            wait()
        self._travelling.clear()
        q, k, v = (whole.transpose(0, 1) for whole in self._all)
        self._all.clear()
        attended = self._layer.attention(self._attend, q, k, v)
        del q, k, v
        rows = attended.transpose(0, 1).contiguous()
        places = [self._place(number) for number in range(len(self._counts))]
        return _Returning(self._team, rows, list(zip(places, self._counts, strict=True)))

    def _place(self, run: int) -> slice:
        """Returns where a run of all ranks is among all tokens."""
        start = sum(map(sum, self._counts[:run]))
        return slice(start, start + sum(self._counts[run]))


class _Returning:
    """What tokens of all ranks attended to, on its way back to the ranks that have them."""

    def __init__(
        self, team: Team, rows: Tensor, runs: Sequence[tuple[slice, Sequence[int]]]
    ) -> None:
        """Sends rows (A, B, G, D) run by run, given their places and counts."""
        self._ranks, self._rows = team.ranks, rows
        self._coming: list[tuple[Callable[[], object], Tensor]] = []
        for place, counts in runs:
            mine = [counts[team.rank]] * team.ranks
            out = rows.new_empty((sum(mine), *rows.shape[1:]))
            wait = team.start_exchange(rows[place], counts, out, mine)
            self._coming.append((wait, out))

    def __call__(self, _: slice) -> Tensor:
        """Returns (B, L, H, D) of the next run."""
        wait, out = self._coming.pop(0)
        wait()
        while self._coming and not len(self._coming[0][1]):  # a run of other ranks
            self._coming.pop(0)[0]()
        return rearrange(out, "(r l) b g d -> b l (r g) d", r=self._ranks)
