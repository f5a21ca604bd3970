"""What numbers a weight is stored as, and how it gets into another kind of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .block_formats import MxFp8Format, NvFp4Format
from .blocks import MXFP8_BLOCK, NVFP4_BLOCK, quantise_mxfp8, quantise_nvfp4
from .linear import PlainFormat, ScaledFormat, Stored, WeightFormat
from .rows import FP8, quantise_rows


@dataclass(frozen=True)
class StoredWeight:
    """A weight as a file or a layer holds it, see `Stored`."""

    weight: Tensor
    weight_scale: Tensor | None = None
    weight_scale_2: Tensor | None = None

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yields what there is, by the names that files and layers use."""
        for name in ("weight", "weight_scale", "weight_scale_2"):
            tensor = getattr(self, name)
            if tensor is not None:
                yield name, tensor

    def to(self, device: torch.device) -> "StoredWeight":
        """Returns the same weight on a device."""
        return StoredWeight(**{name: tensor.to(device) for name, tensor in self.tensors()})


@dataclass(frozen=True, kw_only=True)
class Storage:
    """A kind of numbers."""

    name: str
    """As files are described: "fp8", with " scaled" behind it if scales are of full precision."""
    dtype: torch.dtype
    """Of the weight tensor."""
    bits: float
    """Per number, with the scales of blocks."""
    widening: WeightFormat
    """How to use such a weight where nothing multiplies it as it is."""
    quantise: Callable[[Tensor], StoredWeight]
    """From a weight (O, I) of any float dtype."""
    block: int = 1
    """Numbers in a row that share a small scale; rows are a multiple of it."""

    @property
    def is_scaled(self) -> bool:
        """Whether the numbers mean little without a scale."""
        return self.bits < 16

    def fits(self, stored: Stored) -> bool:
        """Whether the rows of a weight consist of whole blocks."""
        columns = stored.weight.shape[-1] * (2 if stored.weight.dtype == torch.uint8 else 1)
        return columns % self.block == 0

    def holds(self, stored: Stored) -> bool:
        """Whether a weight is of this kind already; fp8 numbers without a scale are."""
        if stored.weight_scale is None:
            same_scales = self.block == 1
        else:
            same_scales = type(widening_of(stored)) is type(self.widening)
        return same_scales and stored.weight.dtype == self.dtype


def _rows(dtype: torch.dtype, weight: Tensor) -> StoredWeight:
    return StoredWeight(*quantise_rows(weight, dtype))


def _plain(dtype: torch.dtype, weight: Tensor) -> StoredWeight:
    return StoredWeight(weight.to(dtype))


BF16, FP16 = (
    Storage(
        name=name,
        dtype=dtype,
        bits=8 * dtype.itemsize,
        widening=PlainFormat(),
        quantise=partial(_plain, dtype),
    )
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16))
)
FP8_ROWS, INT8_ROWS = (
    Storage(name=name, dtype=dtype, bits=8, widening=ScaledFormat(), quantise=partial(_rows, dtype))
    for name, dtype in (("fp8", FP8), ("int8", torch.int8))
)
MXFP8 = Storage(
    name="mxfp8",
    dtype=FP8,
    bits=8 + 8 / MXFP8_BLOCK,
    widening=MxFp8Format(),
    quantise=lambda weight: StoredWeight(*quantise_mxfp8(weight)),
    block=MXFP8_BLOCK,
)
NVFP4 = Storage(
    name="nvfp4",
    dtype=torch.uint8,
    bits=4 + 8 / NVFP4_BLOCK,
    widening=NvFp4Format(),
    quantise=lambda weight: StoredWeight(*quantise_nvfp4(weight)),
    block=NVFP4_BLOCK,
)


def widening_of(stored: Stored) -> WeightFormat:
    """Returns what makes ordinary numbers of a stored weight."""
    if stored.weight_scale is None:
        return PlainFormat()
    if stored.weight_scale.dtype == torch.uint8:
        return MXFP8.widening
    return NVFP4.widening if stored.weight.dtype == NVFP4.dtype else ScaledFormat()


def convert(stored: Stored, storage: Storage) -> StoredWeight:
    """Returns a weight in another kind of numbers.

    Those that are of that kind already are kept, with their scales: nothing is rounded twice.
    """
    if storage.holds(stored):
        scale = stored.weight_scale
        if scale is None and storage.is_scaled:
            scale = torch.ones((), device=stored.weight.device)
        return StoredWeight(stored.weight, scale, stored.weight_scale_2)
    weight = stored.weight
    if stored.weight_scale is not None or weight.itemsize in (1, 8):
        weight = widening_of(stored).dense(stored, torch.float32)
    return storage.quantise(weight)
