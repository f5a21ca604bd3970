"""How the block types of GGUF lie in memory: codes of a few bits, and what they are scaled with.

A decoder takes blocks as bytes and returns their weights in fp32, with the roundings of ggml's own
code in their order, so that the results are equal to the last bit; so are the bytes of an encoder.
The words of ggml: d is a block's scale and dmin the scale of its offsets, both fp16; in types with
K and XS in their name a block of 256 consists of groups, whose scales are integers of 4 to 8 bits.

Source: `ggml-quants.c` of ggml, whose layouts `gguf-py` repeats in NumPy.

Shape legend: N blocks, B bytes of one, G groups of a block.
"""

import torch
from torch import Tensor

IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""What the codes of IQ4_NL and IQ4_XS stand for: finer near zero, where most weights are."""


def unpack(packed: Tensor, bits: int) -> Tensor:
    """Returns codes of a few bits, uint8 (..., 8 / bits, K), from bytes (..., K), lowest first."""
    mask = (1 << bits) - 1
    return torch.stack([packed >> shift & mask for shift in range(0, 8, bits)], -2)


def halves(blocks: Tensor, start: int) -> Tensor:
    """Returns the fp16 number at a place of each block, as fp32 (N, 1)."""
    return blocks[:, start : start + 2].view(torch.float16).float()


def q4_0(blocks: Tensor) -> Tensor:
    """d, then 4 bits: (code - 8) d."""
    return _fours(blocks[:, 2:]).sub_(8).mul_(halves(blocks, 0))


def q4_1(blocks: Tensor) -> Tensor:
    """d, offset, then 4 bits: code d + offset."""
    return _fours(blocks[:, 4:]).mul_(halves(blocks, 0)).add_(halves(blocks, 2))


def q5_0(blocks: Tensor) -> Tensor:
    """d, 4 bytes of fifth bits, then 4 bits: (code - 16) d."""
    return _fives(blocks[:, 2:]).sub_(16).mul_(halves(blocks, 0))


def q5_1(blocks: Tensor) -> Tensor:
    """d, offset, 4 bytes of fifth bits, then 4 bits: code d + offset."""
    return _fives(blocks[:, 4:]).mul_(halves(blocks, 0)).add_(halves(blocks, 2))


def q8_0(blocks: Tensor) -> Tensor:
    """d, then signed bytes."""
    return blocks[:, 2:].view(torch.int8).float().mul_(halves(blocks, 0))


def encode_q8_0(weights: Tensor) -> Tensor:
    """Returns bytes (N, 34) of fp32 weights (N, 32), rounded to nearest, halves away from zero."""
    d = weights.abs().amax(-1, keepdim=True) / 127
    codes = weights * _reciprocal(d)
    sizes = codes.abs()
    whole = sizes.floor()
    codes = codes.sign() * (whole + (2 * (sizes - whole)).floor())
    return torch.cat((d.half().view(torch.uint8), codes.to(torch.int8).view(torch.uint8)), -1)


def encode_q4_0(weights: Tensor) -> Tensor:
    """Returns bytes (N, 18) of fp32 weights (N, 32); the largest becomes code 0, -8 d."""
    largest = weights.gather(-1, weights.abs().argmax(-1, keepdim=True))
    d = largest / -8
    codes = (weights * _reciprocal(d) + 8.5).trunc().clamp_(0, 15).to(torch.uint8)
    return torch.cat((d.half().view(torch.uint8), codes[:, :16] | codes[:, 16:] << 4), -1)


def _reciprocal(d: Tensor) -> Tensor:
    return d.reciprocal().masked_fill_(d == 0, 0.0)


def q2_k(blocks: Tensor) -> Tensor:
    """16 bytes of scales (low) and offsets (high) of 4 bits, 64 of codes, d, dmin."""
    scales = unpack(blocks[:, None, :16], 4).float().squeeze(1)
    d, dmin = halves(blocks, 80), halves(blocks, 82)
    codes = unpack(blocks[:, 16:80].unflatten(1, (2, 32)), 2).reshape(-1, 16, 16).float()
    return _scaled(codes, scales[:, 0] * d, scales[:, 1] * dmin)


def q3_k(blocks: Tensor) -> Tensor:
    """32 bytes of third bits, 64 of the two lower ones, 12 of scales of 6 bits, d.

    A third bit that is missing takes 4 off. Of the scales, 8 bytes hold the four lower bits, and 4
    the upper two.
    """
    low = unpack(blocks[:, None, 96:104], 4).reshape(-1, 16)
    high = unpack(blocks[:, None, 104:108], 2).reshape(-1, 16)
    scales = (low | high << 4).float().sub_(32)
    codes = unpack(blocks[:, 32:96].unflatten(1, (2, 32)), 2).flatten(1)
    codes = codes | unpack(blocks[:, :32], 1).flatten(1) << 2
    return _scaled(codes.view(-1, 16, 16).float().sub_(4), scales * halves(blocks, 108))


def q4_k(blocks: Tensor) -> Tensor:
    """d, dmin, 12 bytes of scales and offsets of 6 bits, 128 of codes: code scale - offset."""
    codes = unpack(blocks[:, 16:].unflatten(1, (4, 32)), 4).view(-1, 8, 32).float()
    return _scaled(codes, *_sixes(blocks))


def q5_k(blocks: Tensor) -> Tensor:
    """As Q4_K, with 32 bytes of fifth bits before the codes."""
    codes = unpack(blocks[:, 48:].unflatten(1, (4, 32)), 4).view(-1, 8, 32)
    codes = codes | unpack(blocks[:, 16:48], 1) << 4
    return _scaled(codes.float(), *_sixes(blocks))


def q6_k(blocks: Tensor) -> Tensor:
    """128 bytes of lower bits, 64 of the two upper ones, 16 signed scales, d: (code - 32) scale."""
    low = unpack(blocks[:, :128].unflatten(1, (2, 64)), 4).reshape(-1, 16, 16)
    high = unpack(blocks[:, 128:192].unflatten(1, (2, 32)), 2).reshape(-1, 16, 16)
    scales = blocks[:, 192:208].view(torch.int8).float() * halves(blocks, 208)
    return _scaled((low | high << 4).float().sub_(32), scales)


def iq4_nl(blocks: Tensor) -> Tensor:
    """d, then 4 bits that choose one of 16 values."""
    codes = unpack(blocks[:, 2:], 4).flatten(1)
    return _iq4(codes).mul_(halves(blocks, 0))


def iq4_xs(blocks: Tensor) -> Tensor:
    """d, 2 bytes of the upper bits of scales, 4 of their lower ones, 128 of codes as in IQ4_NL."""
    low = unpack(blocks[:, 4:8, None], 4).reshape(-1, 8)
    high = unpack(blocks[:, 2:4, None], 2).reshape(-1, 8)
    scales = (low | high << 4).float().sub_(32)
    codes = unpack(blocks[:, 8:].unflatten(1, (8, 16)), 4).flatten(2)
    return _scaled(_iq4(codes), scales * halves(blocks, 0))


def _fours(packed: Tensor) -> Tensor:
    """Returns codes fp32 (N, 32) from bytes (N, 16): the lower halves come first."""
    return unpack(packed, 4).flatten(1).float()


def _fives(packed: Tensor) -> Tensor:
    """Returns codes fp32 (N, 32) from 4 bytes of fifth bits and 16 of lower ones."""
    fifth = unpack(packed[:, :4, None], 1).flatten(1)
    return (unpack(packed[:, 4:], 4).flatten(1) | fifth << 4).float()


def _sixes(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Returns scales and offsets of Q4_K and Q5_K, fp32 (N, 8).

    Bytes 0 to 3 and 4 to 7 hold those of the first four groups, in their upper two bits those of
    the last four; bytes 8 to 11 the lower four bits of the last four's scales and offsets.
    """
    first, offsets, last = blocks[:, 4:16].unflatten(1, (3, 4)).unbind(1)
    scales = torch.cat((first & 63, last & 15 | first >> 2 & 48), 1).float()
    offsets = torch.cat((offsets & 63, last >> 4 | offsets >> 2 & 48), 1).float()
    return scales.mul_(halves(blocks, 0)), offsets.mul_(halves(blocks, 2))


def _iq4(codes: Tensor) -> Tensor:
    values = torch.tensor(IQ4_VALUES, dtype=torch.float32, device=codes.device)
    return values.index_select(0, codes.flatten().int()).view(codes.shape)


def _scaled(codes: Tensor, scales: Tensor, offsets: Tensor | None = None) -> Tensor:
    """Returns codes (N, G, K) * scales - offsets (N, G) as (N, G K), in their place."""
    codes = codes.mul_(scales.unsqueeze(-1))
    if offsets is not None:
        codes = codes.sub_(offsets.unsqueeze(-1))
    return codes.flatten(1)
