"""Weights become any kind of numbers, and stay what they are already."""

import pytest
import torch

from tests.unit.quant.layers import outlier_weight, random, rms_error, row_errors
from wan_model.quant import ScaledFormat, StoredWeight, convert, scale_weight, widening_of
from wan_model.quant.storage import BF16, FP8_ROWS, FP16, INT8_ROWS, MXFP8, NVFP4, Storage

FP8, INT8 = torch.float8_e4m3fn, torch.int8
SMALL = {FP8_ROWS: 0.0361, INT8_ROWS: 0.017, MXFP8: 0.0361, NVFP4: 0.12}
"""With the largest rms error of a row: 2**-4 / sqrt(3) for 3 bits of mantissa."""
ALL = {BF16: 0.004, FP16: 0.004, **SMALL}


def dense(stored: StoredWeight) -> torch.Tensor:
    return widening_of(stored).dense(stored, torch.float32)


def by_name(storage: object) -> str | None:
    return storage.name if isinstance(storage, Storage) else None


@pytest.mark.parametrize("storage", SMALL, ids=by_name)
@pytest.mark.parametrize(
    "source", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
def test_floats_are_converted(source: torch.dtype, storage: Storage) -> None:
    weight = outlier_weight().to(source)
    stored = convert(StoredWeight(weight), storage)
    assert storage.holds(stored)
    assert stored.weight.dtype == storage.dtype
    assert type(widening_of(stored)) is type(storage.widening)
    errors = row_errors(dense(stored), weight)
    assert errors.max() < SMALL[storage]


@pytest.mark.parametrize("storage", [FP8_ROWS, INT8_ROWS], ids=by_name)
@pytest.mark.parametrize("shape", [(), (96, 1), (96, 4, 1)])
def test_numbers_of_the_wanted_kind_are_kept(storage: Storage, shape: tuple) -> None:
    weight, scale = (20 * random(96, 256)).to(storage.dtype), random(*shape).exp()
    kept = convert(StoredWeight(weight, scale), storage)
    assert kept.weight is weight
    assert kept.weight_scale is scale


@pytest.mark.parametrize("storage", [MXFP8, NVFP4], ids=by_name)
def test_blocks_of_the_wanted_kind_are_kept(storage: Storage) -> None:
    stored = storage.quantise(outlier_weight())
    assert convert(stored, storage) == stored


def test_plain_fp8_gets_a_scale_of_one() -> None:
    weight = random(8, 32).to(FP8)
    stored = convert(StoredWeight(weight), FP8_ROWS)
    assert stored.weight is weight
    assert type(widening_of(stored)) is ScaledFormat
    assert torch.equal(dense(stored), weight.float())


def test_fp8_without_small_scales_is_no_mxfp8() -> None:
    for scale in (None, torch.ones(()), torch.ones(8, 1)):
        stored = StoredWeight(random(8, 32).to(FP8), scale)
        assert not MXFP8.holds(stored)
        assert FP8_ROWS.holds(stored)
    assert not FP8_ROWS.holds(MXFP8.quantise(random(8, 32)))


SCALED = [
    (dtype, shape)
    for dtype in (FP8, torch.float8_e5m2, INT8)
    for shape in ((), (96, 1), (96, 4, 1))
]


@pytest.mark.parametrize("storage", ALL, ids=by_name)
@pytest.mark.parametrize(("source", "shape"), SCALED, ids=str)
def test_scaled_weights_become_any_kind(
    source: torch.dtype, shape: tuple, storage: Storage
) -> None:
    stored = StoredWeight((20 * random(96, 256)).to(source), random(*shape).exp() / 50)
    exact, converted = dense(stored), convert(stored, storage)
    assert storage.holds(converted)
    # Numbers of e5m2 lie between those of mxfp8 more often than others do.
    assert row_errors(dense(converted), exact).max() < ALL[storage] * (
        1.15 if storage is MXFP8 else 1
    )


@pytest.mark.parametrize("storage", ALL, ids=by_name)
@pytest.mark.parametrize("source", [NVFP4, MXFP8], ids=by_name)
def test_weights_in_blocks_become_any_kind(source: Storage, storage: Storage) -> None:
    stored = source.quantise(random(96, 256))
    exact, converted = dense(stored), convert(stored, storage)
    assert storage.holds(converted)
    # 4-bit numbers are few: a row may hold mostly those that lie badly for others.
    assert rms_error(dense(converted), exact) < ALL[storage]


@pytest.mark.parametrize("source", [FP8, torch.float8_e5m2], ids=str)
def test_plain_fp8_is_widened_exactly(source: torch.dtype) -> None:
    weight = random(8, 16).to(source)
    stored = convert(StoredWeight(weight), BF16)
    assert stored.weight_scale is None
    assert torch.equal(stored.weight.float(), weight.float())


def test_a_16_bit_weight_with_a_scale_is_multiplied_out() -> None:
    weight, scale = random(8, 16).bfloat16(), torch.tensor(0.25)
    stored = convert(StoredWeight(weight, scale), BF16)
    assert stored.weight_scale is None
    assert torch.equal(stored.weight, (scale_weight(weight, scale)).bfloat16())
