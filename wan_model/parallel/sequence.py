"""Each rank computes a part of the tokens (Ulysses, arXiv 2309.14509).

All but self-attention is local to a token. Before it, ranks exchange tokens for heads: each then
has all tokens of some heads, which any attention kernel takes as it is; afterwards they exchange
back. Numbers of tokens need not be equal, so nothing is padded and no kernel needs a mask. Blocks
of our own exchange run by run (`shared_tokens`), what replaces one all at once.

Shape legend: B batch, L tokens of this rank, A tokens of all ranks, H heads, D head width, R ranks,
G = H / R heads of this rank during attention.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from einops import rearrange
from torch import Tensor

from ..attention import AttentionFn
from ..dit import BlockFn, BlockInputs, BlockRunner
from ..dit.attention_layers import (
    AllTokens,
    Attended,
    DotProductAttention,
    SelfAttention,
    TextAttention,
    TextLayer,
    VideoTokens,
)
from ..errors import SettingsError
from .degrees import check_ulysses
from .shared_tokens import SharedTokens
from .team import Team, shares


@dataclass(frozen=True)
class HeadExchange:
    """Attention of all ranks' tokens, of which each has a part: an `AttentionFn`."""

    attend: AttentionFn
    team: Team
    tokens: tuple[int, ...]
    """Of each rank."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, /) -> Tensor:
        """Returns (B, L, H, D) for q, k and v of the same shape.

        Raises:
            SettingsError: if heads or tokens cannot be split over the ranks.
        """
        check_ulysses(q.shape[2], sum(self.tokens), self.team.ranks)
        attended = self.attend(*(self._heads_for_tokens(part) for part in (q, k, v)))
        return self._tokens_for_heads(attended)

    def _heads_for_tokens(self, x: Tensor) -> Tensor:
        """Returns (B, A, G, D) for (B, L, H, D)."""
        rows = rearrange(x, "b l (r g) d -> (r l) b g d", r=self.team.ranks).contiguous()
        sent = [x.shape[1]] * self.team.ranks
        return self.team.exchange(rows, sent, self.tokens).transpose(0, 1)

    def _tokens_for_heads(self, x: Tensor) -> Tensor:
        """Returns (B, L, H, D) for (B, A, G, D)."""
        received = [self.tokens[self.team.rank]] * self.team.ranks
        rows = self.team.exchange(x.transpose(0, 1).contiguous(), self.tokens, received)
        return rearrange(rows, "(r l) b g d -> b l (r g) d", r=self.team.ranks)


def sequence_parallel(runner: BlockRunner, team: Team) -> BlockRunner:
    """Returns a runner that gives the next one a part of the tokens, and returns them all.

    What chooses attention for a layer or replaces blocks comes in `runner`; what brings weights,
    stages, positions and a negative prompt comes around the result.

    Args:
        runner: runs the blocks with the tokens of this rank.
        team: shares the tokens; all of it is given the same ones.
    """
    return runner if team.ranks == 1 else partial(_run, runner, team)


def _run(
    runner: BlockRunner, team: Team, blocks: Iterable[BlockFn], x: Tensor, inputs: BlockInputs, /
) -> Tensor:
    if inputs.residual.recorded:
        raise SettingsError(
            f"Gradients cannot be recorded on several ranks. Got {team.ranks}, need 1 or none to "
            "record. Use torch.no_grad()."
        )
    tokens = shares(x.shape[1], team.ranks)
    start = sum(tokens[: team.rank])
    mine = slice(start, start + tokens[team.rank])
    inputs = replace(inputs, rotation=inputs.rotation.at(mine), time=inputs.time.at(mine))
    x = runner(_exchanging(blocks, team, tokens), x[:, mine].contiguous(), inputs)
    # As rows of tokens, since every rank has the same samples. It travels once in a pass, what
    # attention exchanges four times in every block.
    return team.gather(x.transpose(0, 1), tokens).transpose(0, 1).contiguous()


def _exchanging(
    blocks: Iterable[BlockFn], team: Team, tokens: tuple[int, ...]
) -> Iterator[BlockFn]:
    """Yields the blocks one by one, as they are to be had one by one, too."""
    for block in blocks:
        yield partial(_call, block, team, tokens)


def _call(
    block: BlockFn, team: Team, tokens: tuple[int, ...], x: Tensor, inputs: BlockInputs
) -> Tensor:
    """Runs a block with self-attention over all ranks, and attention to text over none."""
    everywhere = HeadExchange(inputs.attend, team, tokens)
    here = _AttendHere(inputs.text_attention, inputs.attend)
    shared = _AttendEverywhere(inputs.attend, team, tokens)
    return block(x, replace(inputs, attend=everywhere, text_attention=here, video_attention=shared))


@dataclass(frozen=True)
class _AttendEverywhere:
    """A `VideoAttention` over the tokens of all ranks."""

    attend: AttentionFn
    team: Team
    tokens: tuple[int, ...]

    def __call__(self, layer: SelfAttention, everywhere: AttentionFn, x: Tensor) -> VideoTokens:
        if type(layer.attention) is not DotProductAttention:
            return AllTokens(layer, everywhere, x)  # its weights are for all heads
        return SharedTokens(self.team, self.tokens, layer, self.attend, x)


@dataclass(frozen=True)
class _AttendHere:
    """A `TextAttention` for which the tokens of this rank are all."""

    attention: TextAttention
    attend: AttentionFn

    def __call__(self, layer: TextLayer, text: Tensor, _: AttentionFn) -> Attended:
        return self.attention(layer, text, self.attend)
