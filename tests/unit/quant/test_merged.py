"""Weights that were changed, in their old format: nothing is cut off, nothing else is rounded."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.unit.quant.layers import outlier_weight, random
from wan_model.quant import SCALED, StoredWeight, merged
from wan_model.quant.formats import MXFP8, NVFP4
from wan_model.quant.packing import E5M2, FP8, LARGEST

COLUMNS, BLOCK = 256, 64
ERRORS = {
    "fp8 scaled": 0.06,
    "fp8 e5m2 scaled": 0.12,
    "int8 scaled": 0.02,
    "mxfp8": 0.06,
    "nvfp4": 0.16,
}
"""Rms error of a row that has grown, rounded at random."""


def scaled(dtype: torch.dtype, shape: tuple[int, ...]) -> StoredWeight:
    """Normal numbers at scales per tensor (), row (O, 1), or block of a row (O, N, 1)."""
    weight = random(96, COLUMNS)
    blocks = weight.view(96, -1, BLOCK) if len(shape) == 3 else weight
    largest = blocks.abs().amax(-1, keepdim=True) if shape else weight.abs().amax()
    scale = largest / LARGEST[dtype]
    codes = (blocks / scale).view(96, COLUMNS)
    codes = codes if dtype.is_floating_point else codes.round()
    return StoredWeight(SCALED[dtype], codes.to(dtype), scale)


CASES = {
    **{
        f"{name} {kind}": scaled(dtype, shape)
        for name, dtype in (("e4m3", FP8), ("e5m2", E5M2), ("int8", torch.int8))
        for kind, shape in (("tensor", ()), ("row", (96, 1)), ("block", (96, 4, 1)))
    },
    "mxfp8": MXFP8.quantize(outlier_weight(96, COLUMNS)),
    "nvfp4": NVFP4.quantize(outlier_weight(96, COLUMNS)),
}


def merge(stored: StoredWeight, weight: Tensor) -> StoredWeight:
    return merged(weight, stored, torch.Generator().manual_seed(0))


def as_bytes(tensor: Tensor) -> Tensor:
    return tensor.flatten().view(torch.uint8)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [1.2, 3.0, 1000.0])
def test_larger_values_get_larger_scales(name: str, size: float) -> None:
    stored = CASES[name]
    weight = stored.dequantize(torch.float32)
    weight[7] *= size * weight.abs().amax() / weight[7].abs().amax()
    weight[:, 3] *= 1.3
    result = merge(stored, weight)
    again = result.dequantize(torch.float32)
    assert again.isfinite().all()
    assert (again - weight)[7].norm() < ERRORS[stored.format.name] * weight[7].norm()
    for (kind, tensor), (_, before) in zip(result.tensors(), stored.tensors(), strict=True):
        assert (tensor.shape, tensor.dtype) == (before.shape, before.dtype), kind


@pytest.mark.parametrize("name", CASES)
def test_what_fits_keeps_its_scales_and_codes(name: str) -> None:
    stored = CASES[name]
    weight = stored.dequantize(torch.float32)
    same = merge(stored, weight)
    for (kind, tensor), (_, before) in zip(same.tensors(), stored.tensors(), strict=True):
        if kind != "weight":
            assert torch.equal(as_bytes(tensor), as_bytes(before)), kind
    if stored.format.scale_bits or stored.weight_scale is None or stored.weight_scale.ndim < 2:
        return
    weight[7] *= 5
    other = merge(stored, weight)
    assert other.weight_scale is not None
    rows = torch.arange(96) != 7
    assert torch.equal(other.weight_scale[rows], stored.weight_scale[rows])
    assert (other.weight_scale[7] > stored.weight_scale[7]).all()


def test_codes_of_floats_are_the_same_at_a_larger_scale() -> None:
    """One scale for all: those that have not changed are not rounded again."""
    stored = CASES["e4m3 tensor"]
    weight = stored.dequantize(torch.float32)
    weight[7] *= 5
    rows = torch.arange(96) != 7
    normal = weight.abs() > 2**-4 * weight.abs().amax()
    again = merge(stored, weight).dequantize(torch.float32)
    kept = normal & rows[:, None]
    assert kept.any()
    assert torch.allclose(again[kept], weight[kept], rtol=1e-6)


def test_a_row_of_zeros_gets_a_scale() -> None:
    stored = CASES["int8 row"]
    assert stored.weight_scale is not None
    scale = stored.weight_scale.clone()
    scale[7] = 0
    weight = stored.dequantize(torch.float32)
    again = merge(replace(stored, weight_scale=scale), weight).dequantize(torch.float32)
    assert (again[7] - weight[7]).norm() < 0.02 * weight[7].norm()
