"""Weights get into any format, and stay what they are already."""

import pytest
import torch

from tests.unit.quant.layers import (
    outlier_weight,
    plain,
    random,
    rms_error,
    row_errors,
    scaled,
)
from wan_model.quant import PLAIN, StoredWeight, WeightFormat, convert, holds, scale_weight
from wan_model.quant.formats import BF16, FP8_SCALED, FP16, INT8_SCALED, MXFP8, NVFP4

FP8, INT8 = torch.float8_e4m3fn, torch.int8
SMALL = {FP8_SCALED: 0.0361, INT8_SCALED: 0.017, MXFP8: 0.0361, NVFP4: 0.12}
"""With the largest rms error of a row: 2**-4 / sqrt(3) for 3 bits of mantissa."""
ALL = {BF16: 0.004, FP16: 0.004, **SMALL}


def dense(stored: StoredWeight) -> torch.Tensor:
    return stored.dequantize(torch.float32)


def by_name(weight_format: object) -> str | None:
    return weight_format.name if isinstance(weight_format, WeightFormat) else None


@pytest.mark.parametrize("weight_format", SMALL, ids=by_name)
@pytest.mark.parametrize(
    "source", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
def test_floats_are_converted(source: torch.dtype, weight_format: WeightFormat) -> None:
    weight = outlier_weight().to(source)
    stored = convert(plain(weight), weight_format)
    assert stored.format is weight_format
    assert stored.weight.dtype == weight_format.dtype
    errors = row_errors(dense(stored), weight)
    assert errors.max() < SMALL[weight_format]


@pytest.mark.parametrize("weight_format", [FP8_SCALED, INT8_SCALED], ids=by_name)
@pytest.mark.parametrize("shape", [(), (96, 1), (96, 4, 1)])
def test_codes_of_the_wanted_kind_are_kept(weight_format: WeightFormat, shape: tuple) -> None:
    weight, scale = (20 * random(96, 256)).to(weight_format.dtype), random(*shape).exp()
    kept = convert(scaled(weight, scale), weight_format)
    assert kept.weight is weight
    assert kept.weight_scale is scale


@pytest.mark.parametrize("weight_format", [MXFP8, NVFP4], ids=by_name)
def test_blocks_of_the_wanted_kind_are_kept(weight_format: WeightFormat) -> None:
    stored = weight_format.quantize(outlier_weight())
    assert convert(stored, weight_format) == stored


def test_plain_fp8_gets_a_scale_of_one() -> None:
    weight = random(8, 32).to(FP8)
    stored = convert(plain(weight), FP8_SCALED)
    assert stored.weight is weight
    assert stored.format is FP8_SCALED
    assert torch.equal(dense(stored), weight.float())


def test_fp8_without_small_scales_is_no_mxfp8() -> None:
    for found in (PLAIN[FP8], FP8_SCALED):
        assert not holds(found, MXFP8)
        assert holds(found, FP8_SCALED)
    assert not holds(MXFP8, FP8_SCALED)


SCALED = [
    (dtype, shape)
    for dtype in (FP8, torch.float8_e5m2, INT8)
    for shape in ((), (96, 1), (96, 4, 1))
]


@pytest.mark.parametrize("weight_format", ALL, ids=by_name)
@pytest.mark.parametrize(("source", "shape"), SCALED, ids=str)
def test_scaled_weights_become_any_kind(
    source: torch.dtype, shape: tuple, weight_format: WeightFormat
) -> None:
    stored = scaled((20 * random(96, 256)).to(source), random(*shape).exp() / 50)
    exact, converted = dense(stored), convert(stored, weight_format)
    assert converted.format is weight_format
    # Codes of e5m2 lie between those of mxfp8 more often than others do.
    assert row_errors(dense(converted), exact).max() < ALL[weight_format] * (
        1.15 if weight_format is MXFP8 else 1
    )


@pytest.mark.parametrize("weight_format", ALL, ids=by_name)
@pytest.mark.parametrize("source", [NVFP4, MXFP8], ids=by_name)
def test_weights_in_blocks_become_any_kind(
    source: WeightFormat, weight_format: WeightFormat
) -> None:
    stored = source.quantize(random(96, 256))
    exact, converted = dense(stored), convert(stored, weight_format)
    assert converted.format is weight_format
    # 4-bit codes are few: a row may hold mostly those that lie badly for others.
    assert rms_error(dense(converted), exact) < ALL[weight_format]


@pytest.mark.parametrize("source", [FP8, torch.float8_e5m2], ids=str)
def test_plain_fp8_is_dequantized_exactly(source: torch.dtype) -> None:
    weight = random(8, 16).to(source)
    stored = convert(plain(weight), BF16)
    assert stored.weight_scale is None
    assert torch.equal(stored.weight.float(), weight.float())


def test_a_16_bit_weight_with_a_scale_is_multiplied_out() -> None:
    weight, scale = random(8, 16).bfloat16(), torch.tensor(0.25)
    stored = convert(scaled(weight, scale), BF16)
    assert stored.weight_scale is None
    assert torch.equal(stored.weight, (scale_weight(weight, scale)).bfloat16())
