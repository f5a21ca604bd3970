"""Weights whose inputs were rotated before they were quantized, so that no input is an outlier.

Groups of consecutive inputs are multiplied by a matrix H that is symmetric and orthogonal, hence
its own inverse: x W^T = (x H) (W H)^T. Its entries are +-1 / sqrt(size); it is the Kronecker power
of a *regular* Hadamard matrix of size 4, whose rows have equal sums.

Source: "ConvRot" (2025), as in comfy-kitchen's int8 and int4 layouts.
"""

from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from .formats import Scales, Stored, StoredWeight, WeightFormat

ROTATIONS = (256, 64, 16)
"""Inputs in a group, in files that are known: a power of 4."""

HADAMARD = ((1, 1, 1, -1), (1, 1, -1, 1), (1, -1, 1, 1), (-1, 1, 1, 1))


def rotate(x: Tensor, size: int) -> Tensor:
    """Returns x (..., I) H in the dtype of x; twice, it is x again.

    Args:
        x: any float dtype.
        size: inputs in a group, a power of 4; 0 for no rotation.
    """
    if size == 0:
        return x
    return (x.unflatten(-1, (-1, size)) @ _hadamard(size, x.dtype, x.device)).flatten(-2)


@lru_cache(maxsize=32)
def _hadamard(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns H (size, size); made once, since a layer's matmul is a few kernels itself."""
    with torch.inference_mode(False):
        quarter = torch.tensor(HADAMARD, dtype=dtype, device=device) / 2
        matrix = quarter
        while len(matrix) < size:
            matrix = torch.kron(matrix, quarter)
        return matrix


def rotated(base: WeightFormat, size: int, name: str) -> WeightFormat:
    """Returns the format of weights that were rotated, and then stored in another one.

    Args:
        base: of the rotated weights.
        size: inputs in a group.
        name: for people.
    """

    def dequantize(stored: Stored, dtype: torch.dtype) -> Tensor:
        return rotate(base.dequantize(stored, torch.float32), size).to(dtype)

    def quantize(weight: Tensor) -> StoredWeight:
        return replace(base.quantize(rotate(weight.float(), size)), format=result)

    def requantize(weight: Tensor, stored: Stored, generator: torch.Generator) -> Tensor:
        assert base.requantize is not None
        return base.requantize(rotate(weight, size), stored, generator)

    def roomier(weight: Tensor, stored: Stored) -> Scales:
        return base.roomier(rotate(weight, size), stored)

    result = replace(
        base,
        name=name if size == ROTATIONS[0] else f"{name} {size}",
        dequantize=dequantize,
        quantize=quantize,
        requantize=None if base.requantize is None else requantize,
        roomier=roomier,
        rotation=size,
        base=base,
        row_scales=False,
    )
    return result
