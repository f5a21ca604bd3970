"""Stages of a block whose elementwise work is done by Triton kernels, without a compiler's wait.

Importing this needs Triton.

What lies between two matmuls is one kernel: it reads tokens once, and writes them as the next
matmul takes them, in e4m3 if its weights are. PyTorch's own operations read and write them four to
eight times.

Shape legend: B batch, L tokens of a run, C hidden width, H heads, D head width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..quant import Linear, add_low_rank
from ..quant.packing import FP8
from .block import Block
from .fused_kernels import Tokens, Wanted, add, gelu, norm, quantize, rms_norm
from .modulation import Modulation
from .norms import AffineLayerNorm, RMSNorm
from .rope import Rotation
from .tokens import Residual


@dataclass(frozen=True)
class FusedStages:
    """The `BlockStages` of one block."""

    block: Block
    with_codes: bool
    """Whether kernels may quantize tokens."""

    def project(
        self,
        x: Tensor,
        attention: Modulation,
        angles: Rotation,
        qkv: Sequence[Tensor],
        written: Callable[[], None],
    ) -> None:
        """See `BlockStages`."""
        layer, eps = self.block.self_attn, self.block.norm1.eps
        h = norm(x, eps, self._wanted(layer.q, layer.k, layer.v), attention)
        angles = Rotation(angles.cos.contiguous(), angles.sin.contiguous())
        for linear, rms, out in ((layer.q, layer.norm_q, qkv[0]), (layer.k, layer.norm_k, qkv[1])):
            rms_norm(self._linear(linear, h), _weight(rms, x), rms.eps, out, angles)
            written()
        qkv[2].copy_(layer.heads(self._linear(layer.v, h)))
        written()

    def add_self_attention(
        self, x: Tensor, attention: Modulation, attended: Tensor, residual: Residual
    ) -> tuple[Tensor, Tensor]:
        """See `BlockStages`."""
        assert not residual.recorded
        block, cross = self.block, self.block.cross_attn
        branch = self._linear(block.self_attn.o, self._flat(block.self_attn.o, attended))
        affine = _weight(block.norm3, x), block.norm3.bias.to(x.device, torch.float32)
        h = norm(x, block.norm3.eps, self._wanted(cross.q), affine, branch, attention)
        q = self._linear(cross.q, h)
        return x, rms_norm(q, _weight(cross.norm_q, x), cross.norm_q.eps, cross.heads(q))

    def add_text_and_feed_forward(
        self, x: Tensor, feed_forward: Modulation, attended: Tensor, residual: Residual
    ) -> Tensor:
        """See `BlockStages`."""
        assert not residual.recorded
        block, cross = self.block, self.block.cross_attn
        up, down = block.ffn[0], block.ffn[2]
        assert isinstance(up, Linear)
        assert isinstance(down, Linear)
        branch = self._linear(cross.o, self._flat(cross.o, attended))
        h = norm(x, block.norm2.eps, self._wanted(up), feed_forward, branch)
        h = gelu(self._linear(up, h), self._wanted(down))
        return add(x, self._linear(down, h), feed_forward)

    def _takes_codes(self, layer: Linear) -> bool:
        return self.with_codes and layer.codes_dtype == FP8

    def _wanted(self, *layers: Linear) -> Wanted:
        """Returns in which forms these layers take their tokens."""
        codes = [self._takes_codes(layer) for layer in layers]
        values = any(
            layer.adapters or not takes for layer, takes in zip(layers, codes, strict=True)
        )
        return Wanted(layers[0].compute_dtype if values else None, any(codes))

    def _flat(self, layer: Linear, attended: Tensor) -> Tokens:
        """Returns attended heads (B, L, H, D) as the tokens (B, L, C) that a layer takes."""
        x = attended.flatten(-2).contiguous()
        return Tokens(x, quantize(x) if self._takes_codes(layer) else None)

    def _linear(self, layer: Linear, tokens: Tokens) -> Tensor:
        """Returns what a layer makes of tokens, contiguous."""
        if tokens.rows is not None and self._takes_codes(layer):
            out = layer.multiply_rows(tokens.rows)
        else:
            assert tokens.values is not None
            out = layer.multiply(tokens.values)
        if not layer.adapters:
            return out
        assert tokens.values is not None
        return add_low_rank(out, tokens.values, layer.adapters)


def _weight(norm: RMSNorm | AffineLayerNorm, x: Tensor) -> Tensor:
    """Returns a norm's weight in fp32 on the device of x."""
    return norm.weight.to(x.device, torch.float32)
