"""A trial of a block's stages: few tokens, the kernels that the block itself needs, and no others.

Kernels are compiled for widths, dtypes and forms of tokens, a third of a second each. A trial has
those of the block that is to run, whose matmuls are left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..config import DiTConfig, Precision
from ..quant import Linear, LowRank, QuantizedRows, quantize_rows
from ..quant.packing import FP8
from .block import Block, BlockStages
from .modulation import Modulation
from .rope import rotation
from .tokens import IN_PLACE

RANK = 16
"""Of LoRAs."""

FRAMES, HEIGHT, WIDTH = 2, 1, 3
"""Tokens of the trial."""

LAYERS = (
    *("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o"),
    *("cross_attn.q", "cross_attn.o", "ffn.0", "ffn.2"),
)
"""Those that stages multiply with."""

LAYERS_OF = attrgetter(*LAYERS)


class LayerKind(NamedTuple):
    """What one layer has tokens written as."""

    codes: bool
    """In e4m3."""
    adapters: bool
    """Also as they are, since it has LoRAs."""


@dataclass(frozen=True)
class BlockKind:
    """All that decides which kernels a block's stages need, but for dtypes."""

    dim: int
    ffn_dim: int
    num_heads: int
    layers: tuple[LayerKind, ...]
    """Of `LAYERS`."""

    @classmethod
    def of(cls, block: Block) -> "BlockKind | None":
        """Returns a block's kind as it stands; None if others have put parts of theirs into it."""
        try:
            layers = LAYERS_OF(block)
        except AttributeError:
            return None
        if not all(isinstance(layer, Linear) for layer in layers):
            return None
        up: Linear = layers[LAYERS.index("ffn.0")]
        kinds = (LayerKind(takes_codes(layer), bool(layer.adapters)) for layer in layers)
        return cls(up.in_features, up.out_features, block.self_attn.num_heads, tuple(kinds))

    @property
    def has_codes(self) -> bool:
        """Whether any layer takes e4m3."""
        return any(layer.codes for layer in self.layers)

    def with_adapters(self) -> "BlockKind":
        """Returns the same with LoRAs on all layers."""
        return replace(self, layers=tuple(layer._replace(adapters=True) for layer in self.layers))

    def without_codes(self) -> "BlockKind":
        """Returns the same of layers that quantize tokens themselves."""
        return replace(self, layers=tuple(layer._replace(codes=False) for layer in self.layers))


def takes_codes(layer: Linear) -> bool:
    """Whether a layer takes tokens in e4m3, now or when its weight is expanded for a visit."""
    if layer.expanded is None:
        expansion = layer.expansion()
        if expansion is not None:
            return getattr(expansion.matmul, "codes_dtype", None) == FP8
    return layer.codes_dtype == FP8


class _WithoutWeight(Linear):
    """In a layer's place: columns of tokens in another order."""

    takes = LayerKind(codes=False, adapters=False)

    @property
    def codes_dtype(self) -> torch.dtype | None:
        """See `Linear`."""
        return FP8 if self.takes.codes else None

    def multiply(self, x: Tensor) -> Tensor:
        """See `Linear`."""
        if self.takes.codes:
            return self.multiply_rows(QuantizedRows(*quantize_rows(x, FP8)))
        column = torch.arange(self.out_features, device=x.device) * 7 % self.in_features
        return x.to(self.compute_dtype).index_select(-1, column)

    def multiply_rows(self, rows: QuantizedRows) -> Tensor:
        """See `Linear`."""
        column = torch.arange(self.out_features, device=rows.codes.device) * 7 % self.in_features
        return (rows.codes.float() * rows.scale).to(self.compute_dtype).index_select(-1, column)


def trial_block(kind: BlockKind, precision: Precision, device: torch.device) -> Block:
    """Returns a block of a kind whose layers have no weights."""
    config = DiTConfig(
        dim=kind.dim,
        ffn_dim=kind.ffn_dim,
        num_heads=kind.num_heads,
        num_layers=1,
        in_channels=16,
        out_channels=16,
    )
    with torch.device("meta"):
        block = Block(config, precision, _WithoutWeight)
    for number, (layer, takes) in enumerate(zip(LAYERS_OF(block), kind.layers, strict=True)):
        layer.takes = takes
        if takes.adapters:
            a, b = (
                (_sines(*shape, start=number, device=device) / 10).to(precision.compute_dtype)
                for shape in ((RANK, layer.in_features), (layer.out_features, RANK))
            )
            layer.adapters = (LowRank(a, b, _sines(RANK, start=number, device=device)),)
    for number, module in enumerate(block.modules()):
        if not isinstance(module, Linear):
            for name, parameter in module.named_parameters(recurse=False):
                values = 1 + _sines(*parameter.shape, start=number, device=device)
                setattr(module, name, nn.Parameter(values, requires_grad=False))
    return block


@torch.no_grad()
def run_trial(
    stages: BlockStages, block: Block, precision: Precision, device: torch.device
) -> Iterator[Tensor]:
    """Yields the results of all stages of a block for a few tokens with timesteps of their own."""
    dim, tokens = block.self_attn.q.in_features, FRAMES * HEIGHT * WIDTH
    x = _sines(2, tokens, dim, start=20, device=device).to(precision.residual_dtype)
    index = torch.arange(2 * tokens, device=device).view(2, tokens) % 3
    first, second = (
        Modulation(_sines(3, 3, dim, start=start, device=device), index) for start in (30, 40)
    )
    angles = rotation((FRAMES, HEIGHT, WIDTH), block.self_attn.head_dim, device)
    qkv = block.self_attn.empty_qkv(2, tokens, device)
    stages.project(x, first, angles, qkv, lambda: None)
    yield from qkv
    x, q = stages.add_self_attention(x, first, qkv[0], IN_PLACE)
    yield from (x.clone(), q)
    yield stages.add_text_and_feed_forward(x, second, q, IN_PLACE)


def _sines(*shape: int, start: int, device: torch.device) -> Tensor:
    """Returns numbers of which no two are alike, the same on every machine."""
    numbers = torch.arange(torch.Size(shape).numel(), device=device)
    return (numbers * 0.7 + start).sin().view(shape)
