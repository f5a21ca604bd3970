"""One transformer block: self-attention, cross-attention to the text, feed-forward.

Shape legend: B batch, L tokens, C hidden width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import PATCH_VALUES, DiTConfig, Precision
from ..quant import Linear
from .attention_layers import CrossAttention, SelfAttention
from .inputs import BlockInputs
from .norms import LayerNorm, modulated_norm
from .rope import Rotation
from .timesteps import TimestepRows
from .tokens import add, runs, update_tokens

ATTENTION, ATTENTION_GATE, FEED_FORWARD = (0, 1), 2, (3, 4, 5)
"""Numbers of the six modulation vectors: shift, scale; gate; shift, scale, gate."""


class Block(nn.Module):
    """x += gate * self_attn(norm1(x)); x += cross_attn(norm3(x)); x += gate * ffn(norm2(x)).

    norm1 and norm2 have no weights: the timestep's shift and scale take their place. Following
    the checkpoints, the norm before cross-attention is called norm3.
    """

    def __init__(self, config: DiTConfig, precision: Precision, linear: type[Linear]) -> None:
        super().__init__()
        self.eps = config.eps
        dtype = precision.compute_dtype
        self.self_attn = SelfAttention(config, precision, linear)
        self.norm3 = LayerNorm(config.dim, config.eps)
        self.cross_attn = CrossAttention(config, precision, linear)
        self.ffn = nn.Sequential(
            linear(config.dim, config.ffn_dim, compute_dtype=dtype),
            nn.GELU(approximate="tanh"),
            linear(config.ffn_dim, config.dim, compute_dtype=dtype),
        )
        self.modulation = nn.Parameter(torch.empty(1, 6, config.dim), requires_grad=False)

    def forward(self, x: Tensor, inputs: BlockInputs) -> Tensor:
        """Returns the residual stream (B, L, C) after this block; x itself without gradients."""
        time = inputs.time.plus(self.modulation)
        attended = inputs.attend(*self._qkv(x, time, inputs))
        k, v = self.cross_attn.keys_values(inputs.text)

        def update(x_run: Tensor, run: slice) -> Tensor:
            here = time.at(run)
            x_run, q = inputs.call(Block.add_self_attention, self, x_run, here, attended[:, run])
            text = inputs.attend(q, k, v)
            return inputs.call(Block.add_text_and_feed_forward, self, x_run, here, text)

        return update_tokens(x, update)

    def project(self, x: Tensor, time: TimestepRows, angles: Rotation) -> tuple[Tensor, ...]:
        """Returns q, k, v (B, L, H, D) of self-attention for a run of tokens."""
        shift, scale = time.vectors(*ATTENTION)
        return self.self_attn.project(modulated_norm(x, shift, scale, self.eps), angles)

    def project_into(self, x: Tensor, time: TimestepRows, angles: Rotation, *qkv: Tensor) -> None:
        """Writes the results of `project` to q, k, v."""
        for target, part in zip(qkv, self.project(x, time, angles), strict=True):
            target.copy_(part)

    def add_self_attention(
        self, x: Tensor, time: TimestepRows, attended: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns x + gate * o(attended), and the queries for the text of these tokens.

        Args:
            x: run of tokens (B, L, C).
            time: the block's vectors for them.
            attended: (B, L, H, D).
        """
        (gate,) = time.vectors(ATTENTION_GATE)
        x = add(x, gate * self.self_attn.o(attended.flatten(-2)))
        return x, self.cross_attn.queries(self.norm3(x))

    def add_text_and_feed_forward(self, x: Tensor, time: TimestepRows, text: Tensor) -> Tensor:
        """Returns x + o(text) + gate * ffn(...) for a run of tokens.

        Args:
            x: (B, L, C).
            time: the block's vectors for them.
            text: what they attended to of the text (B, L, H, D).
        """
        x = add(x, self.cross_attn.o(text.flatten(-2)))
        shift, scale, gate = time.vectors(*FEED_FORWARD)
        return add(x, gate * self.ffn(modulated_norm(x, shift, scale, self.eps)))

    def _qkv(self, x: Tensor, time: TimestepRows, inputs: BlockInputs) -> tuple[Tensor, ...]:
        if torch.is_grad_enabled():
            return self.project(x, time, inputs.rotation)
        qkv = self.self_attn.empty_qkv(x.shape[0], x.shape[1], x.device)
        for run in runs(x.shape[1]):
            parts = (whole[:, run] for whole in qkv)
            angles = inputs.rotation.at(run)
            inputs.call(Block.project_into, self, x[:, run], time.at(run), angles, *parts)
        return qkv


class Head(nn.Module):
    """Modulated norm and projection of each token to its patch of the velocity, in fp32."""

    def __init__(self, config: DiTConfig, linear: type[Linear]) -> None:
        super().__init__()
        self.eps = config.eps
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
        time = time.plus(self.modulation)
        parts = []
        for run in runs(x.shape[1]):
            shift, scale = time.at(run).vectors(0, 1)
            parts.append(self.head(modulated_norm(x[:, run], shift, scale, self.eps)))
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
