"""The block types of GGUF as weight formats. A weight stays the bytes that its file holds.

Scales lie among the codes, so that a weight is one tensor: uint8 (O, bytes of a row). F32, F16 and
BF16 of GGUF are the plain formats.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from . import gguf_packing
from .formats import AT_ONCE, Stored, StoredWeight, WeightFormat, only_read

Decoder = Callable[[Tensor], Tensor]
"""Bytes of blocks (N, B) -> their weights, fp32 (N, weights of a block); an encoder: back."""


@dataclass(frozen=True, kw_only=True)
class GgufFormat(WeightFormat):
    """A block type. Its `block` is how many weights one block has."""

    block_bytes: int
    """Of one block, its scales included."""
    halves_at: tuple[int, ...]
    """Where in a block its numbers of fp16 are: d, and a second one in some."""

    @property
    def bits(self) -> float:
        """Per weight, scales included."""
        return 8 * self.block_bytes / self.block

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of a weight whose bytes have the given one."""
        return (*stored[:-1], stored[-1] // self.block_bytes * self.block)


def _dequantize(
    decode: Decoder, block: int, block_bytes: int, stored: Stored, dtype: torch.dtype
) -> Tensor:
    packed = stored.weight
    shape = *packed.shape[:-1], packed.shape[-1] // block_bytes * block
    blocks = packed.reshape(-1, block_bytes)
    at_once = AT_ONCE // block
    if len(blocks) <= at_once or torch.compiler.is_compiling():
        return decode(blocks).to(dtype).view(shape)
    out = torch.empty((len(blocks), block), dtype=dtype, device=packed.device)
    for source, target in zip(blocks.split(at_once), out.split(at_once), strict=True):
        target.copy_(decode(source))
    return out.view(shape)


def _quantize(name: str, encode: Decoder, block: int, weight: Tensor) -> StoredWeight:
    kind = next(one for one in GGUF_FORMATS if one.name == name)
    rows = max(1, AT_ONCE // weight.shape[-1])
    parts = [
        encode(some.float().reshape(-1, block)).view(len(some), -1) for some in weight.split(rows)
    ]
    return StoredWeight(kind, torch.cat(parts))


def _format(
    name: str,
    decode: Decoder,
    block: int,
    block_bytes: int,
    *halves_at: int,
    encode: Decoder | None = None,
) -> GgufFormat:
    return GgufFormat(
        name=name,
        dtype=torch.uint8,
        block=block,
        block_bytes=block_bytes,
        halves_at=halves_at,
        dequantize=partial(_dequantize, decode, block, block_bytes),
        quantize=partial(_quantize, name, encode, block) if encode else only_read(name),
    )


GGUF_FORMATS = (
    _format("Q8_0", gguf_packing.q8_0, 32, 34, 0, encode=gguf_packing.encode_q8_0),
    _format("Q6_K", gguf_packing.q6_k, 256, 210, 208),
    _format("Q5_K", gguf_packing.q5_k, 256, 176, 0, 2),
    _format("Q5_1", gguf_packing.q5_1, 32, 24, 0, 2),
    _format("Q5_0", gguf_packing.q5_0, 32, 22, 0),
    _format("Q4_K", gguf_packing.q4_k, 256, 144, 0, 2),
    _format("Q4_1", gguf_packing.q4_1, 32, 20, 0, 2),
    _format("Q4_0", gguf_packing.q4_0, 32, 18, 0, encode=gguf_packing.encode_q4_0),
    _format("IQ4_NL", gguf_packing.iq4_nl, 32, 18, 0),
    _format("IQ4_XS", gguf_packing.iq4_xs, 256, 136, 0),
    _format("Q3_K", gguf_packing.q3_k, 256, 110, 108),
    _format("Q2_K", gguf_packing.q2_k, 256, 84, 80, 82),
)
"""Called what GGUF calls them."""
