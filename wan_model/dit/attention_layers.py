"""Self-attention over all tokens of a video, and cross-attention from tokens to text.

Shape legend: B batch, L tokens, S text tokens, C = H * D hidden width, H heads, D head width.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from ..attention import AttentionFn
from ..config import DiTConfig, Precision
from ..quant import Linear
from .norms import RMSNorm
from .rope import Rotation, rotate


class DotProductAttention(nn.Module):
    """softmax(q k^T / sqrt(D)) v by the function of the forward pass.

    A layer owns its attention: one with weights, such as the projection of sparse-linear
    attention, takes this place. Its weights then are the block's, and travel with them.
    """

    def forward(self, attend: AttentionFn, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Returns (B, L, H, D) for q (B, L, H, D), k and v (B, S, H, D)."""
        return attend(q, k, v)


class _Projections(nn.Module):
    """What both kinds of attention have: linears q, k, v, o, norms of q and k, and attention."""

    def __init__(self, config: DiTConfig, precision: Precision, linear: type[Linear]) -> None:
        super().__init__()
        self.num_heads, self.head_dim = config.num_heads, config.head_dim
        self.compute_dtype = precision.compute_dtype
        dim, dtype = config.dim, precision.compute_dtype
        self.q = linear(dim, dim, compute_dtype=dtype)
        self.k = linear(dim, dim, compute_dtype=dtype)
        self.v = linear(dim, dim, compute_dtype=dtype)
        self.o = linear(dim, dim, compute_dtype=dtype)
        self.norm_q = RMSNorm(dim, config.eps)
        self.norm_k = RMSNorm(dim, config.eps)
        self.attention = DotProductAttention()

    def heads(self, x: Tensor) -> Tensor:
        """Splits the hidden width into heads: (B, L, H, D)."""
        return x.unflatten(-1, (self.num_heads, -1))

    def output(self, attended: Tensor) -> Tensor:
        """Returns the branch (B, L, C) for what tokens attended to (B, L, H, D)."""
        return self.o(attended.flatten(-2))


class SelfAttention(_Projections):
    """Every token attends to every token; q and k carry the token's place in the video."""

    def empty_qkv(self, batch: int, length: int, device: torch.device) -> tuple[Tensor, ...]:
        """Returns uninitialised q, k, v (B, L, H, D) in the compute dtype, for `project`."""
        shape = (batch, length, self.num_heads, self.head_dim)
        return tuple(torch.empty(shape, dtype=self.compute_dtype, device=device) for _ in range(3))

    def project(self, h: Tensor, angles: Rotation, qkv: Sequence[Tensor]) -> None:
        """Writes q, k, v of a run of tokens h (B, L, C) to its part of `empty_qkv`.

        Norms and rotation are done in fp32 and rounded once.
        """
        q = rotate(self.heads(self.norm_q(self.q(h).float())), angles).to(self.compute_dtype)
        k = rotate(self.heads(self.norm_k(self.k(h).float())), angles).to(self.compute_dtype)
        for target, part in zip(qkv, (q, k, self.heads(self.v(h))), strict=True):
            target.copy_(part)


class VideoTokens(Protocol):
    """Self-attention of one block in one pass: it is given q, k and v run by run."""

    def places(self, run: slice) -> Sequence[Tensor]:
        """Returns where q, k and v (B, L, H, D) of a run of tokens are to be written."""
        ...

    def written(self) -> None:
        """Says that the next of q, k and v is, of the run that was asked for last."""
        ...

    def attended(self) -> Callable[[slice], Tensor]:
        """Attends, and returns what tells what a run attended to (B, L, H, D).

        All runs have been written, in their order, and are asked for in their order once.
        """
        ...


VideoAttention = Callable[[SelfAttention, AttentionFn, Tensor], VideoTokens]
"""How a layer's tokens x (B, L, C) attend to one another."""


class AllTokens:
    """Tokens of a video that is here as a whole: `VideoTokens`."""

    def __init__(self, layer: SelfAttention, attend: AttentionFn, x: Tensor) -> None:
        """Takes memory for q, k and v of all tokens x (B, L, C)."""
        self._layer, self._attend = layer, attend
        self._qkv = layer.empty_qkv(x.shape[0], x.shape[1], x.device)

    def places(self, run: slice) -> Sequence[Tensor]:
        """See `VideoTokens`."""
        return [whole[:, run] for whole in self._qkv]

    def written(self) -> None:
        """See `VideoTokens`."""

    def attended(self) -> Callable[[slice], Tensor]:
        """See `VideoTokens`. q, k and v are let go."""
        attended = self._layer.attention(self._attend, *self._qkv)
        self._qkv = ()
        return lambda run: attended[:, run]


class CrossAttention(_Projections):
    """Every token attends to all text tokens. The padding takes part: the models are trained so."""

    def keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Returns k, v (B, S, H, D) of the embedded text."""
        return self.heads(self.norm_k(self.k(text))), self.heads(self.v(text))

    def queries(self, h: Tensor) -> Tensor:
        """Returns q (B, L, H, D) for a run of tokens."""
        return self.heads(self.norm_q(self.q(h)))


Attended = Callable[[Tensor, slice], Tensor]
"""Returns what queries (B, L, H, D) of a run of tokens attend to, of the same shape.

The run is where they are among all tokens of the video."""


class TextLayer(Protocol):
    """What attention to text needs of a layer: a `CrossAttention`, or one in its place."""

    def keys_values(self, text: Tensor, /) -> tuple[Tensor, Tensor]:
        """Returns k, v (B, S, H, D) of embedded text (B, S, C)."""
        ...

    @property
    def attention(self) -> Callable[[AttentionFn, Tensor, Tensor, Tensor], Tensor]:
        """See `DotProductAttention`."""
        ...


TextAttention = Callable[[TextLayer, Tensor, AttentionFn], Attended]
"""How a layer attends to embedded text (B, S, C); what depends on the text only is done once."""


def attend_to_text(layer: TextLayer, text: Tensor, attend: AttentionFn) -> Attended:
    """Attention to one text, as the models are trained: a `TextAttention`."""
    k, v = layer.keys_values(text)

    def attended(q: Tensor, _: slice) -> Tensor:
        return layer.attention(attend, q, k, v)

    return attended
