"""Self-attention over all tokens of a video, and cross-attention from tokens to text.

Shape legend: B batch, L tokens, S text tokens, C = H * D hidden width, H heads, D head width.
"""

import torch
from torch import Tensor, nn

from ..config import DiTConfig, Precision
from ..quant import Linear
from .norms import RMSNorm
from .rope import Rotation, rotate


class Attention(nn.Module):
    """The projections that both kinds of attention share: q, k, v, o, and the norms of q and k."""

    def __init__(self, config: DiTConfig, precision: Precision, linear: type[Linear]) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.compute_dtype = precision.compute_dtype
        dim, dtype = config.dim, precision.compute_dtype
        self.q = linear(dim, dim, compute_dtype=dtype)
        self.k = linear(dim, dim, compute_dtype=dtype)
        self.v = linear(dim, dim, compute_dtype=dtype)
        self.o = linear(dim, dim, compute_dtype=dtype)
        self.norm_q = RMSNorm(dim, config.eps)
        self.norm_k = RMSNorm(dim, config.eps)

    def heads(self, x: Tensor) -> Tensor:
        """Splits the hidden width into heads: (B, L, H, D)."""
        return x.unflatten(-1, (self.num_heads, -1))


class SelfAttention(Attention):
    """Every token attends to every token; q and k carry the token's place in the video."""

    def project(self, h: Tensor, angles: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Returns q, k, v (B, L, H, D) in the compute dtype for a run of tokens.

        Norms and rotation are done in fp32 and rounded once.
        """
        q = rotate(self.heads(self.norm_q(self.q(h))), angles).to(self.compute_dtype)
        k = rotate(self.heads(self.norm_k(self.k(h))), angles).to(self.compute_dtype)
        return q, k, self.heads(self.v(h))

    def empty_qkv(self, batch: int, length: int, device: torch.device) -> tuple[Tensor, ...]:
        """Returns uninitialised q, k, v (B, L, H, D) for `project` results of all runs."""
        shape = (batch, length, self.num_heads, self.q.out_features // self.num_heads)
        return tuple(torch.empty(shape, dtype=self.compute_dtype, device=device) for _ in range(3))


class CrossAttention(Attention):
    """Every token attends to all text tokens. The padding takes part: the models are trained so."""

    def keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Returns k, v (B, S, H, D) of the embedded text."""
        k = self.norm_k(self.k(text)).to(self.compute_dtype)
        return self.heads(k), self.heads(self.v(text))

    def queries(self, h: Tensor) -> Tensor:
        """Returns q (B, L, H, D) for a run of tokens."""
        return self.heads(self.norm_q(self.q(h)).to(self.compute_dtype))
