"""What a weight can be stored as: one `WeightFormat` for each, and how to get from and to it.

A format is a name for the meaning of some tensors. It holds none, so that the offload engine can
replace those of a layer at any time.

Shape legend: O output features, I input features, N blocks of a row.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from .packing import (
    E2M1_PER_E4M3,
    E5M2,
    FP8,
    LARGEST,
    MXFP8_BLOCK,
    NVFP4_BLOCK,
    e2m1_as_e4m3,
    encode_e2m1,
    mxfp8_scales,
    nvfp4_scales,
    quantize_mxfp8,
    quantize_nvfp4,
    quantize_rows,
    roomier_nvfp4,
    roomier_scales,
    round_at_random,
    scale_weight,
    unscale_weight,
)

Scales = tuple[Tensor | None, Tensor | None]
"""weight_scale and weight_scale_2 of a weight."""

AT_ONCE = 1 << 22
"""Values of a weight that change their format: what that takes in fp32 on the way is small then."""


class Stored(Protocol):
    """A weight as it is stored: by a file, a layer, or a copy of a layer's tensors."""

    @property
    def weight(self) -> Tensor:
        """Codes (O, I), or bytes of packed codes (O, bytes of a row)."""
        ...

    @property
    def weight_scale(self) -> Tensor | None:
        """fp32 per tensor, row, or block of a row; or small codes in tiles, see `packing`."""
        ...

    @property
    def weight_scale_2(self) -> Tensor | None:
        """fp32, for the whole tensor, or (O,) per row. nvfp4 and w4a8 have it."""
        ...

    @property
    def weight_codebook(self) -> Tensor | None:
        """fp32 (16,): what the codes of w4a8 stand for, if not for -8 to 7."""
        ...

    @property
    def pre_quant_scale(self) -> Tensor | None:
        """fp32 (I,): inputs were divided by it before quantizing. Only nvfp4 may have it."""
        ...


PARTS = ("weight", "weight_scale", "weight_scale_2", "weight_codebook", "pre_quant_scale")
"""Names of a stored weight's tensors, in layers and in files."""


def scales_of(_: Tensor, stored: Stored) -> Scales:
    """Returns the scales that are stored."""
    return stored.weight_scale, stored.weight_scale_2


@dataclass(frozen=True)
class StoredWeight:
    """A weight and what its tensors mean; see `Stored` for those."""

    format: "WeightFormat"
    weight: Tensor
    weight_scale: Tensor | None = None
    weight_scale_2: Tensor | None = None
    weight_codebook: Tensor | None = None
    pre_quant_scale: Tensor | None = None

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yields what there is, by the names that files and layers use."""
        for name in PARTS:
            tensor = getattr(self, name)
            if tensor is not None:
                yield name, tensor

    def to(self, device: torch.device) -> "StoredWeight":
        """Returns the same weight on a device."""
        return StoredWeight(self.format, **{name: part.to(device) for name, part in self.tensors()})

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """Returns the weight (O, I) in a float dtype."""
        return self.format.dequantize(self, dtype)


@dataclass(frozen=True, kw_only=True)
class WeightFormat:
    """The meaning of a stored weight."""

    name: str
    """As files are described: "bf16", "fp8", and "fp8 scaled" with a scale of full precision."""
    dtype: torch.dtype
    """Of the tensor `weight`."""
    dequantize: Callable[[Stored, torch.dtype], Tensor]
    """(stored, float dtype) -> weight (O, I); no copy if it is that already."""
    quantize: Callable[[Tensor], StoredWeight]
    """From a weight (O, I) of any float dtype, with new scales, rounded to nearest."""
    requantize: Callable[[Tensor, Stored, torch.Generator], Tensor] | None = None
    """(weight fp32 (O, I), stored, random numbers) -> its codes at the scales that are stored.

    Rounded up or down at random, so that changes that are smaller than a step are not lost. None
    for weights that never change: what is merged into them is merged into a dequantized copy.
    """
    roomier: Callable[[Tensor, Stored], Scales] = scales_of
    """(weight (O, I), stored) -> scales with which no value of the weight is too large a code.

    They are those that are stored but where values would be cut off: what is not changed is not
    rounded again.
    """
    block: int = 1
    """Weights in a row that share a scale of few bits; rows are a multiple of it."""
    codes_per_item: int = 1
    """Weights in one item of the tensor `weight`."""
    scale_bits: int = 0
    """Of a block's scale."""
    row_scales: bool = False
    """Whether scales are fp32 and, without blocks, can be applied to a matmul's result."""
    rotation: int = 0
    """Inputs in a group that was rotated before quantizing, see `rotation`; 0 for none."""
    base: "WeightFormat | None" = None
    """Of the rotated weight, where there is a rotation."""

    @property
    def bits(self) -> float:
        """Per weight, scales of blocks included."""
        return 8 * self.dtype.itemsize / self.codes_per_item + self.scale_bits / self.block

    @property
    def is_quantized(self) -> bool:
        """Whether a weight takes fewer than 16 bits."""
        return self.bits < 16

    @property
    def is_plain(self) -> bool:
        """Whether the tensor is the weight itself, without scales."""
        return PLAIN.get(self.dtype) is self

    @property
    def is_bare(self) -> bool:
        """Whether these are codes without a scale, which then is one."""
        return self.is_plain and self.is_quantized

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of a weight whose tensor has the given one."""
        return (*stored[:-1], stored[-1] * self.codes_per_item) if stored else stored

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether the rows of a weight (O, I) consist of whole blocks."""
        return shape[-1] % (self.rotation or self.block) == 0


def only_read(name: str) -> Callable[[Tensor], StoredWeight]:
    """Returns the `WeightFormat.quantize` of a format that files have, and is never made."""

    def quantize(_: Tensor) -> StoredWeight:
        raise NotImplementedError(f"{name} can be read only")

    return quantize


def convert(stored: StoredWeight, target: WeightFormat) -> StoredWeight:
    """Returns a weight in another format.

    Codes of the wanted kind are kept, with their scales, so that nothing is rounded twice.
    """
    if stored.format is target:
        return stored
    if holds(stored.format, target):
        one = torch.ones((), device=stored.weight.device)
        return StoredWeight(target, stored.weight, one)
    weight = stored.weight
    if not stored.format.is_plain or weight.itemsize in (1, 8):
        weight = stored.dequantize(torch.float32)
    return target.quantize(weight)


def merged(weight: Tensor, stored: StoredWeight, generator: torch.Generator) -> StoredWeight:
    """Returns a changed weight (O, I) fp32 in the format of the one it was, rounded at random."""
    assert stored.format.requantize is not None, "the codes of such a weight never change"
    scale, scale_2 = stored.format.roomier(weight, stored)
    roomy = replace(stored, weight_scale=scale, weight_scale_2=scale_2)
    return replace(roomy, weight=stored.format.requantize(weight, roomy, generator))


def holds(stored: WeightFormat, target: WeightFormat) -> bool:
    """Whether `convert` keeps the codes of a weight; fp8 ones without a scale are scaled by one."""
    return stored is target or (stored is PLAIN.get(target.dtype) and target.row_scales)


def scale_of(stored: Stored) -> Tensor:
    """Returns the scale of a weight whose format needs one."""
    if stored.weight_scale is None:
        raise RuntimeError("This format needs a weight with weight_scale")
    return stored.weight_scale


def tensor_scale_of(stored: Stored) -> Tensor:
    """Returns the second scale of a weight whose format needs one."""
    if stored.weight_scale_2 is None:
        raise RuntimeError("This format needs a weight with weight_scale_2")
    return stored.weight_scale_2


def _cast(stored: Stored, dtype: torch.dtype) -> Tensor:
    return stored.weight.to(dtype)


def _times_scale(stored: Stored, dtype: torch.dtype) -> Tensor:
    scale = scale_of(stored)
    if scale.ndim < 3 and (stored.weight.itemsize, dtype.itemsize) == (1, 2):
        # Codes of 8 bits are exact in 16, so no fp32 copy is needed. A scale with axes is
        # multiplied in fp32; one without would be rounded to `dtype` first.
        return stored.weight.to(dtype).mul_(scale.reshape(-1, 1))
    return scale_weight(stored.weight, scale).to(dtype)


def _nvfp4_factors(stored: Stored) -> Tensor:
    rows, pairs = stored.weight.shape
    return nvfp4_scales(scale_of(stored), tensor_scale_of(stored), rows, 2 * pairs)


def _mxfp8_factors(stored: Stored) -> Tensor:
    return mxfp8_scales(scale_of(stored), *stored.weight.shape)


def _dequantize_nvfp4(stored: Stored, dtype: torch.dtype) -> Tensor:
    scales = _nvfp4_factors(stored).mul_(E2M1_PER_E4M3)
    weight = _times_per_block(e2m1_as_e4m3(stored.weight).to(dtype), scales)
    return weight if stored.pre_quant_scale is None else weight.mul_(stored.pre_quant_scale)


def _nvfp4_codes(weight: Tensor, stored: Stored) -> Tensor:
    return _per_block(_smoothed(weight, stored), _nvfp4_factors(stored))


def _smoothed(weight: Tensor, stored: Stored) -> Tensor:
    """Returns a weight for inputs that are multiplied by `pre_quant_scale`, if there is one."""
    if stored.pre_quant_scale is None:
        return weight
    return (weight / stored.pre_quant_scale).masked_fill_(stored.pre_quant_scale == 0, 0.0)


def _dequantize_mxfp8(stored: Stored, dtype: torch.dtype) -> Tensor:
    return _times_per_block(stored.weight.to(dtype), _mxfp8_factors(stored))


def _times_per_block(codes: Tensor, scales: Tensor) -> Tensor:
    """Returns codes (O, I), exact in any dtype, times scales (O, N, 1), in their place."""
    return codes.unflatten(1, (scales.shape[1], -1)).mul_(scales).flatten(1)


def _per_block(weight: Tensor, scales: Tensor) -> Tensor:
    """Returns weight (O, I) / scales (O, N, 1); zero where a block's scale is zero."""
    blocks = weight.float().unflatten(1, (scales.shape[1], -1)) / scales
    return blocks.masked_fill_(scales == 0, 0.0).flatten(1)


def _requantize_with(
    codes: Callable[[Tensor, Stored], Tensor],
    rounded: Callable[[Tensor, Tensor], Tensor],
) -> Callable[[Tensor, Stored, torch.Generator], Tensor]:
    """Returns a `WeightFormat.requantize`.

    Args:
        codes: (weight, stored) -> fp32 codes (O, I) that are not rounded.
        rounded: (codes, random numbers of [0, 1)) -> codes as they are stored.
    """

    def requantize(weight: Tensor, stored: Stored, generator: torch.Generator) -> Tensor:
        values = codes(weight, stored)
        parts: list[Tensor] = []
        for run in values.split(max(1, AT_ONCE // values.shape[-1])):
            chance = torch.rand(run.shape, generator=generator, device=run.device)
            parts.append(rounded(run, chance))
        return torch.cat(parts)

    return requantize


def _plain(name: str, dtype: torch.dtype) -> WeightFormat:
    """A weight stored as what it is."""

    def quantize(weight: Tensor) -> StoredWeight:
        return StoredWeight(PLAIN[dtype], weight.to(dtype))

    def requantize(weight: Tensor, stored: Stored, generator: torch.Generator) -> Tensor:
        if dtype not in (FP8, E5M2):
            return weight.to(dtype)
        return at_random(weight, stored, generator)

    at_random = _requantize_with(lambda weight, _: weight.float(), partial(_round, dtype))
    return WeightFormat(
        name=name, dtype=dtype, dequantize=_cast, quantize=quantize, requantize=requantize
    )


def _scaled(name: str, dtype: torch.dtype) -> WeightFormat:
    """Codes with fp32 scales, per tensor, row, or block of a row. New scales are per row."""

    def quantize(weight: Tensor) -> StoredWeight:
        return StoredWeight(SCALED[dtype], *quantize_rows(weight, dtype))

    def codes(weight: Tensor, stored: Stored) -> Tensor:
        return unscale_weight(weight, scale_of(stored))

    def requantize(weight: Tensor, stored: Stored, generator: torch.Generator) -> Tensor:
        if dtype.itemsize > 1:
            return codes(weight, stored).to(dtype)
        return at_random(weight, stored, generator)

    def roomier(weight: Tensor, stored: Stored) -> Scales:
        return roomier_scales(weight, scale_of(stored), dtype), None

    at_random = _requantize_with(codes, partial(_round, dtype))
    return WeightFormat(
        name=f"{name} scaled",
        dtype=dtype,
        dequantize=_times_scale,
        quantize=quantize,
        requantize=requantize,
        roomier=roomier if dtype in LARGEST else scales_of,
        row_scales=True,
    )


def _round(dtype: torch.dtype, codes: Tensor, chance: Tensor) -> Tensor:
    return round_at_random(codes, dtype, chance)


_FLOATS = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    FP8: "fp8",
    E5M2: "fp8 e5m2",
}

PLAIN = {dtype: _plain(name, dtype) for dtype, name in _FLOATS.items()}
"""Formats without scales, by dtype."""

SCALED = {dtype: _scaled(name, dtype) for dtype, name in (_FLOATS | {torch.int8: "int8"}).items()}
"""Formats with fp32 scales, by dtype."""

BF16, FP16 = PLAIN[torch.bfloat16], PLAIN[torch.float16]
FP8_SCALED, INT8_SCALED = SCALED[FP8], SCALED[torch.int8]

MXFP8 = WeightFormat(
    name="mxfp8",
    dtype=FP8,
    block=MXFP8_BLOCK,
    scale_bits=8,
    dequantize=_dequantize_mxfp8,
    quantize=lambda weight: StoredWeight(MXFP8, *quantize_mxfp8(weight)),
    requantize=_requantize_with(
        lambda weight, stored: _per_block(weight, _mxfp8_factors(stored)),
        partial(_round, FP8),
    ),
    # The larger of two exponents, in tiles both.
    roomier=lambda weight, stored: (scale_of(stored).maximum(quantize_mxfp8(weight)[1]), None),
)
NVFP4 = WeightFormat(
    name="nvfp4",
    dtype=torch.uint8,
    block=NVFP4_BLOCK,
    codes_per_item=2,
    scale_bits=8,
    dequantize=_dequantize_nvfp4,
    quantize=lambda weight: StoredWeight(NVFP4, *quantize_nvfp4(weight)),
    requantize=_requantize_with(_nvfp4_codes, encode_e2m1),
    roomier=lambda weight, stored: roomier_nvfp4(
        _smoothed(weight, stored), scale_of(stored), tensor_scale_of(stored)
    ),
)
FORMATS = (*PLAIN.values(), *SCALED.values(), MXFP8, NVFP4)
