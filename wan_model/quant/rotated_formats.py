"""ComfyUI's formats of rotated weights: int8 "convrot", and two of 4 bits, which are only read.

Sources: comfy-kitchen, layouts TensorWiseINT8, TensorCoreConvRotW4A4 and AsymW4A8Int8.

Shape legend: O output features, I input features, N groups of a row.
"""

from functools import partial
from typing import NoReturn

import torch
from torch import Tensor

from .formats import (
    INT8_SCALED,
    REQUANTIZED_AT_ONCE,
    Stored,
    WeightFormat,
    scale_of,
    tensor_scale_of,
)
from .packing import LARGEST, unpack_int4
from .rotation import ROTATIONS, rotated

CODEBOOK_SIZE = 16


def _only_read(name: str, *_: object) -> NoReturn:
    raise NotImplementedError(f"{name} can be read only")


def _dequantize_int4(stored: Stored, dtype: torch.dtype) -> Tensor:
    return unpack_int4(stored.weight).to(dtype).mul_(scale_of(stored).reshape(-1, 1))


def _levels(stored: Stored) -> Tensor:
    """Returns what the codes of every group stand for, fp32 (O, N, 16): whole numbers."""
    table = stored.weight_codebook
    if table is None:
        table = torch.arange(-8.0, 8.0, device=stored.weight.device)
    scales = scale_of(stored).float().unsqueeze(-1)
    return (table.float() * scales).round_().clamp_(-LARGEST[torch.int8], LARGEST[torch.int8])


def _dequantize_w4a8(stored: Stored, dtype: torch.dtype) -> Tensor:
    levels = _levels(stored).to(dtype)  # whole numbers up to 127 are exact in 16 bits, too
    rows, groups, _ = levels.shape
    weight = torch.empty(rows, 2 * stored.weight.shape[1], dtype=dtype, device=levels.device)
    # In runs, since codes are looked up by numbers of 64 bits.
    run = max(1, REQUANTIZED_AT_ONCE // weight.shape[1])
    for part, packed, table in zip(
        weight.split(run), stored.weight.split(run), levels.split(run), strict=True
    ):
        codes = unpack_int4(packed, signed=False).unflatten(1, (groups, -1))
        part.copy_(table.gather(2, codes.long()).flatten(1))
    return weight.mul_(tensor_scale_of(stored).reshape(-1, 1))


INT4 = WeightFormat(
    name="int4",
    dtype=torch.int8,
    codes_per_item=2,
    dequantize=_dequantize_int4,
    quantize=partial(_only_read, "int4"),
    requantize=None,
)
"""4-bit integers with a scale per row. Only rotated ones are known in files."""

W4A8 = WeightFormat(
    name="w4a8",
    dtype=torch.int8,
    codes_per_item=2,
    dequantize=_dequantize_w4a8,
    quantize=partial(_only_read, "w4a8"),
    requantize=None,
)
"""Codes that stand for 8-bit integers: those of a table, times the group's scale, rounded. A scale
per row makes them weights. Only rotated ones are known in files."""

CONVROT_INT8 = {size: rotated(INT8_SCALED, size, "int8 convrot") for size in ROTATIONS}
CONVROT_INT4 = {size: rotated(INT4, size, "int4 convrot") for size in ROTATIONS}
CONVROT_W4A8 = {size: rotated(W4A8, size, "w4a8 convrot") for size in ROTATIONS}
"""By the inputs in a group."""
