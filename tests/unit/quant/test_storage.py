"""Weights become any kind of numbers, and stay what they are already."""

import pytest
import torch

from tests.unit.quant.layers import outlier_weight, random, row_errors
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


SOURCES = {
    "fp8 scaled": lambda: StoredWeight((20 * random(96, 256)).to(FP8), torch.tensor(0.02)),
    "fp8 e5m2 per row": lambda: StoredWeight(
        (20 * random(96, 256)).to(torch.float8_e5m2), random(96, 1).exp() / 50
    ),
    "int8 per block": lambda: StoredWeight(
        (20 * random(96, 256)).to(INT8), random(96, 4, 1).exp() / 50
    ),
    "nvfp4": lambda: NVFP4.quantise(random(96, 256)),
    "mxfp8": lambda: MXFP8.quantise(random(96, 256)),
}


@pytest.mark.parametrize("storage", ALL, ids=by_name)
@pytest.mark.parametrize("source", SOURCES)
def test_scaled_weights_become_any_kind(source: str, storage: Storage) -> None:
    stored = SOURCES[source]()
    exact, converted = dense(stored), convert(stored, storage)
    assert storage.holds(converted)
    assert row_errors(dense(converted), exact).max() < 1.3 * ALL[storage]


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
