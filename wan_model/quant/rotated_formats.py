"""ComfyUI's formats of rotated weights: int8 "convrot", and two of 4 bits, which are only read.

Sources: comfy-kitchen, layouts TensorWiseINT8, TensorCoreConvRotW4A4 and AsymW4A8Int8.

Shape legend: O output features, I input features, N groups of a row.
"""

import torch
from torch import Tensor

from .formats import (
    AT_ONCE,
    INT8_SCALED,
    Stored,
    WeightFormat,
    only_read,
    scale_of,
    tensor_scale_of,
)
from .packing import LARGEST, unpack_int4
from .rotation import ROTATIONS, rotated

CODEBOOK_SIZE = 16


def _dequantize_int4(stored: Stored, dtype: torch.dtype) -> Tensor:
    return unpack_int4(stored.weight).to(dtype).mul_(scale_of(stored).reshape(-1, 1))


def _levels(stored: Stored) -> Tensor:
    """Returns what the codes of every group stand for, fp32 (O, N, 16): whole numbers."""
    table = stored.weight_codebook
    if table is None:
        table = torch.arange(-8.0, 8.0, device=stored.weight.device)
    scales = scale_of(stored).float().unsqueeze(-1)
    return (table.float() * scales).round_().clamp_(-LARGEST[torch.int8], LARGEST[torch.int8])


def _write_w4a8(stored: Stored, weight: Tensor) -> Tensor:
    """Writes whole numbers up to 127, exact in any dtype, to a tensor (O, I); returns that."""
    levels = _levels(stored).to(weight.dtype)
    groups = levels.shape[1]
    # In runs, since codes are looked up by numbers of 64 bits.
    run = max(1, AT_ONCE // weight.shape[1])
    for part, packed, table in zip(
        weight.split(run), stored.weight.split(run), levels.split(run), strict=True
    ):
        codes = unpack_int4(packed, signed=False).unflatten(1, (groups, -1))
        part.copy_(table.gather(2, codes.long()).flatten(1))
    return weight


def _dequantize_w4a8(stored: Stored, dtype: torch.dtype) -> Tensor:
    rows, pairs = stored.weight.shape
    weight = torch.empty(rows, 2 * pairs, dtype=dtype, device=stored.weight.device)
    return _write_w4a8(stored, weight).mul_(tensor_scale_of(stored).reshape(-1, 1))


INT4 = WeightFormat(
    name="int4",
    dtype=torch.int8,
    codes_per_item=2,
    dequantize=_dequantize_int4,
    quantize=only_read("int4"),
)
"""4-bit integers with a scale per row. Only rotated ones are known in files."""

W4A8 = WeightFormat(
    name="w4a8",
    dtype=torch.int8,
    codes_per_item=2,
    dequantize=_dequantize_w4a8,
    quantize=only_read("w4a8"),
)
"""Codes that stand for 8-bit integers: those of a table, times the group's scale, rounded. A scale
per row makes them weights. Only rotated ones are known in files."""

CONVROT_INT8 = {size: rotated(INT8_SCALED, size, "int8 convrot") for size in ROTATIONS}
CONVROT_INT4 = {size: rotated(INT4, size, "int4 convrot") for size in ROTATIONS}
CONVROT_W4A8 = {size: rotated(W4A8, size, "w4a8 convrot") for size in ROTATIONS}
"""By the inputs in a group."""


def as_int8(stored_as: WeightFormat) -> WeightFormat | None:
    """Returns the format of 8 bits that holds the same numbers as one of 4; None for others."""
    size = stored_as.rotation
    narrow = (CONVROT_INT4.get(size), CONVROT_W4A8.get(size))
    return CONVROT_INT8[size] if size and stored_as in narrow else None


def write_int8(stored: Stored, base: WeightFormat, codes: Tensor, scale: Tensor) -> None:
    """Writes a weight of 4 bits as int8 (O, I) and a scale for each row (O, 1), without loss.

    Args:
        stored: the weight.
        base: `INT4` or `W4A8`, which the rotated weight is in.
        codes: to write to.
        scale: to write to, fp32.
    """
    if base is INT4:
        codes.copy_(unpack_int4(stored.weight))
        scale.copy_(scale_of(stored).reshape(-1, 1))
    else:
        _write_w4a8(stored, codes)
        scale.copy_(tensor_scale_of(stored).reshape(-1, 1))
