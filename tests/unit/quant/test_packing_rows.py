"""Row-wise quantization and conversion between weight formats."""

import pytest
import torch

from tests.unit.quant.layers import outlier_weight, random, row_errors
from wan_model.quant import quantize_rows, scale_weight

FP8, INT8 = torch.float8_e4m3fn, torch.int8
LIMITS = {FP8: 0.0361, INT8: 0.017}
"""Rms error of a row of normal numbers. fp8: 3 bits of mantissa make 2**-4 / sqrt(3) at most; 0.026
on average. int8: a step of 1/127 of the largest, over sqrt(12): 0.008 for 3.5 sigma."""


@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", LIMITS, ids=str)
def test_every_row_is_as_exact_as_the_others(dtype: torch.dtype, given: torch.dtype) -> None:
    x = outlier_weight().to(given)
    codes, scale = quantize_rows(x, dtype)
    assert (codes.dtype, scale.dtype, scale.shape) == (dtype, torch.float32, (len(x), 1))
    assert row_errors(scale_weight(codes, scale), x).max() < LIMITS[dtype]


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
def test_the_largest_number_is_used_and_kept(dtype: torch.dtype) -> None:
    x = random(1000, 64)
    codes, scale = quantize_rows(x, dtype)
    largest = {FP8: 448, INT8: 127}[dtype]
    assert torch.equal(codes.float().abs().amax(1), torch.full((1000,), float(largest)))
    got = scale_weight(codes, scale).abs().amax(1)
    torch.testing.assert_close(got, x.abs().amax(1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
def test_negative_numbers_mirror_positive_ones(dtype: torch.dtype) -> None:
    x = random(8, 64)
    codes, mirrored = quantize_rows(x, dtype)[0], quantize_rows(-x, dtype)[0]
    assert torch.equal(codes.float(), -mirrored.float())


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("tiny", [0.0, 1e-38, 1e-42])
def test_rows_of_almost_nothing_stay_finite(dtype: torch.dtype, tiny: float) -> None:
    codes, scale = quantize_rows(torch.full((2, 32), tiny), dtype)
    back = scale_weight(codes, scale)
    assert back.isfinite().all()
    assert (back - tiny).abs().max() < 1e-38


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_is_not_hidden(dtype: torch.dtype, bad: float) -> None:
    x = random(3, 32)
    x[1, 4] = bad
    codes, scale = quantize_rows(x, dtype)
    total = scale_weight(codes, scale).sum(1)
    assert total.isfinite().tolist() == [True, False, True]


def test_any_axes_and_strides() -> None:
    x = random(2, 5, 64).transpose(0, 1)
    codes, scale = quantize_rows(x, INT8)
    assert (codes.shape, scale.shape) == ((5, 2, 64), (5, 2, 1))
    assert codes.is_contiguous()
    assert row_errors(codes * scale, x).max() < LIMITS[INT8]
