"""One transformer block: self-attention, cross-attention to the text, feed-forward.

Shape legend: B batch, L tokens, C hidden width, H heads, D head width.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import PATCH_VALUES, DiTConfig, Precision
from ..quant import Linear
from .attention_layers import CrossAttention, SelfAttention
from .inputs import BlockInputs
from .modulation import Modulation, modulate
from .norms import AffineLayerNorm, LayerNorm
from .rope import Rotation
from .timesteps import TimestepRows
from .tokens import Residual, runs


class BlockStages(Protocol):
    """What a block computes for a run of tokens before, between and after its two attentions."""

    def project(
        self,
        x: Tensor,
        attention: Modulation,
        angles: Rotation,
        qkv: Sequence[Tensor],
        written: Callable[[], None],
    ) -> None:
        """Writes q, k, v (B, L, H, D) of self-attention for tokens x (B, L, C).

        Args:
            x: (B, L, C).
            attention: modulation of the branch.
            angles: of these tokens.
            qkv: where they are to be written.
            written: is called as soon as each is, in this order.
        """
        ...

    def add_self_attention(
        self, x: Tensor, attention: Modulation, attended: Tensor, residual: Residual
    ) -> tuple[Tensor, Tensor]:
        """Returns x (B, L, C) with the branch, and q of cross-attention (B, L, H, D).

        Args:
            x: (B, L, C).
            attention: modulation of the branch.
            attended: what the tokens attended to of the video (B, L, H, D).
            residual: how the branch is added.
        """
        ...

    def add_text_and_feed_forward(
        self, x: Tensor, feed_forward: Modulation, attended: Tensor, residual: Residual
    ) -> Tensor:
        """Returns x (B, L, C) with the last two branches.

        Args:
            x: (B, L, C).
            feed_forward: modulation of the last branch.
            attended: what the tokens attended to of the text (B, L, H, D).
            residual: how branches are added.
        """
        ...


def tell_all(written: Callable[[], None], qkv: Sequence[Tensor]) -> None:
    """Says that all of q, k and v are written."""
    for _ in qkv:
        written()


class Block(nn.Module):
    """Three branches, each added to the tokens x.

    x = x + gate * self_attn(modulate(norm1(x)))
    x = x + cross_attn(norm3(x), text)
    x = x + gate * ffn(modulate(norm2(x)))

    norm1 and norm2 have no weights: the timestep's shift and scale take their place. Following
    the checkpoints, the norm before cross-attention is called norm3.
    """

    def __init__(self, config: DiTConfig, precision: Precision, linear: type[Linear]) -> None:
        super().__init__()
        dtype = precision.compute_dtype
        self.norm1 = LayerNorm(config.eps)
        self.self_attn = SelfAttention(config, precision, linear)
        self.norm3 = AffineLayerNorm(config.dim, config.eps)
        self.cross_attn = CrossAttention(config, precision, linear)
        self.norm2 = LayerNorm(config.eps)
        self.ffn = nn.Sequential(
            linear(config.dim, config.ffn_dim, compute_dtype=dtype),
            nn.GELU(approximate="tanh"),
            linear(config.ffn_dim, config.dim, compute_dtype=dtype),
        )
        self.modulation = nn.Parameter(torch.empty(1, 6, config.dim), requires_grad=False)

    def forward(self, x: Tensor, inputs: BlockInputs, stages: BlockStages | None = None) -> Tensor:
        """Returns the residual stream (B, L, C) after this block; x itself without gradients.

        Args:
            x: (B, L, C).
            inputs: what all blocks are given.
            stages: called in place of this block's own, which they do the work of.
        """
        stages = stages or self
        attention, feed_forward = inputs.time.modulations(self.modulation)

        tokens = inputs.video_attention(self.self_attn, inputs.attend, x)
        for run in runs(x.shape[1]):
            stages.project(
                x[:, run],
                attention.at(run),
                inputs.rotation.at(run),
                tokens.places(run),
                tokens.written,
            )
        attended = tokens.attended()
        attend_to_text = inputs.text_attention(self.cross_attn, inputs.text, inputs.attend)

        def add_branches(x: Tensor, run: slice) -> Tensor:
            x, q = stages.add_self_attention(x, attention.at(run), attended(run), inputs.residual)
            return stages.add_text_and_feed_forward(
                x, feed_forward.at(run), attend_to_text(q, run), inputs.residual
            )

        return inputs.residual.update(x, add_branches)

    def project(
        self,
        x: Tensor,
        attention: Modulation,
        angles: Rotation,
        qkv: Sequence[Tensor],
        written: Callable[[], None] | None = None,
    ) -> None:
        """Writes q, k, v of self-attention; see `BlockStages`."""
        self.self_attn.project(modulate(self.norm1(x), attention), angles, qkv)
        if written is not None:
            tell_all(written, qkv)

    def add_self_attention(
        self, x: Tensor, attention: Modulation, attended: Tensor, residual: Residual
    ) -> tuple[Tensor, Tensor]:
        """Adds the first branch and begins the second; see `BlockStages`."""
        x = residual.add(x, attention.gate * self.self_attn.output(attended))
        return x, self.cross_attn.queries(self.norm3(x))

    def add_text_and_feed_forward(
        self, x: Tensor, feed_forward: Modulation, attended: Tensor, residual: Residual
    ) -> Tensor:
        """Adds the second and the third branch; see `BlockStages`."""
        x = residual.add(x, self.cross_attn.output(attended))
        h = modulate(self.norm2(x), feed_forward)
        return residual.add(x, feed_forward.gate * self.ffn(h))


class Head(nn.Module):
    """Modulated norm and projection of each token to its patch of the velocity, in fp32."""

    def __init__(self, config: DiTConfig, linear: type[Linear]) -> None:
        super().__init__()
        self.norm = LayerNorm(config.eps)
        self.head = linear(
            config.dim, config.out_channels * PATCH_VALUES, compute_dtype=torch.float32
        )
        self.modulation = nn.Parameter(torch.empty(1, 2, config.dim), requires_grad=False)

    def forward(self, x: Tensor, time: TimestepRows) -> Tensor:
        """Returns fp32 (B, L, 4 * C_out).

        Args:
            x: residual stream (B, L, C).
            time: one vector per timestep, the time embedding itself and not its projection.
        """
        (modulation,) = time.modulations(self.modulation)
        parts = [
            self.head(modulate(self.norm(x[:, run]), modulation.at(run)))
            for run in runs(x.shape[1])
        ]
        return torch.cat(parts, dim=1)


class PatchEmbedding(nn.Module):
    """Each 1 x 2 x 2 patch of the input to one token, in fp32.

    The weight has the shape of the checkpoints' Conv3d. Multiplying patches as rows gives tokens
    in memory order at once, where a convolution would need a transposed copy of them all.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        shape = (config.dim, config.in_channels, 1, 2, 2)
        self.weight = nn.Parameter(torch.empty(shape), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(config.dim), requires_grad=False)

    def forward(self, patches: Tensor) -> Tensor:
        """Returns fp32 tokens (B, L, C) for patches (B, L, in_channels * 4)."""
        weight = self.weight.to(patches.device, torch.float32).flatten(1)
        return F.linear(patches.float(), weight, self.bias.to(patches.device, torch.float32))
