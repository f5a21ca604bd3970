"""Codes with small scales per block: the same bits as ComfyUI's kernel library makes."""

import itertools
import math
from dataclasses import replace

import comfy_kitchen
import pytest
import torch

from tests.unit.quant.layers import outlier_weight, random, rms_error
from wan_model.quant import StoredWeight, WeightFormat
from wan_model.quant.formats import MXFP8, NVFP4
from wan_model.quant.packing import (
    NVFP4_CANDIDATES,
    e2m1_as_e4m3,
    encode_e2m1,
    quantize_nvfp4,
    swizzle,
    swizzled_shape,
    unswizzle,
)

BLOCKS = [NVFP4, MXFP8]
E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
LIMITS = {"nvfp4": 0.11, "mxfp8": 0.03}
"""Rms error of a weight."""


def hard_weight(rows: int = 96, columns: int = 256) -> torch.Tensor:
    """Rows of very different sizes, blocks of zeros, and a row of them."""
    weight = outlier_weight(rows, columns)
    weight[5, :32] = weight[9] = 0
    return weight


def decode_e2m1(bytes_: torch.Tensor) -> torch.Tensor:
    return 64 * e2m1_as_e4m3(bytes_).float()


def test_all_pairs_of_4_bit_numbers_are_kept() -> None:
    bytes_ = torch.arange(256, dtype=torch.uint8).view(1, -1)
    values = decode_e2m1(bytes_)
    signed = [*E2M1, *(-number for number in E2M1)]
    assert values.view(-1, 2).tolist() == [[signed[b >> 4], signed[b & 15]] for b in range(256)]
    assert torch.equal(encode_e2m1(values), bytes_)


def test_4_bit_numbers_round_to_nearest_and_ties_to_even() -> None:
    between = [(low + high) / 2 for low, high in itertools.pairwise(E2M1)]
    even = [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]
    values = torch.tensor([[*between, 9.0]])
    assert decode_e2m1(encode_e2m1(values)).tolist() == [[*even, 6.0]]
    for shift, picked in ((-1e-3, E2M1[:-1]), (1e-3, E2M1[1:])):
        values = torch.tensor([[*(x + shift for x in between), 6.2]])
        assert decode_e2m1(encode_e2m1(-values)).abs().tolist() == [[*picked, 6.0]]


def test_rounding_at_random_has_the_right_mean() -> None:
    values = torch.linspace(-6, 6, 50).repeat(4000, 1)
    chance = torch.rand(values.shape, generator=torch.Generator().manual_seed(1))
    rounded = decode_e2m1(encode_e2m1(values, chance))
    assert (rounded.mean(0) - values[0]).abs().max() < 0.06
    assert set(rounded.abs().unique().tolist()) == set(E2M1)


@pytest.mark.parametrize(("rows", "blocks"), [(128, 4), (256, 12), (96, 16), (130, 5), (1, 1)])
def test_scales_lie_in_tiles(rows: int, blocks: int) -> None:
    scales = torch.arange(rows * blocks).view(rows, blocks)
    tiles = swizzle(scales)
    assert tiles.shape == swizzled_shape(rows, blocks)
    assert torch.equal(unswizzle(tiles, rows, blocks), scales)
    flat, per_row = tiles.flatten(), math.ceil(blocks / 4)
    for row in range(0, rows, 7):
        for column in range(blocks):
            tile = row // 128 * per_row + column // 4
            within = row % 32 * 16 + row % 128 // 32 * 4 + column % 4
            assert flat[512 * tile + within] == scales[row, column]


SHAPES = pytest.mark.parametrize("shape", [(96, 256), (128, 64), (160, 4160)])


@SHAPES
def test_nvfp4_is_what_comfy_kitchen_makes(shape: tuple[int, int]) -> None:
    weight = hard_weight(*shape)
    codes, tiles, tensor_scale = quantize_nvfp4(weight, candidates=(1.0,))
    theirs, their_tiles = comfy_kitchen.quantize_nvfp4(weight, tensor_scale)
    assert torch.equal(codes, theirs)
    # Where all codes are zero ours has the smallest scale, so that a LoRA finds one to add to.
    ours, others = tiles.float(), their_tiles.float()
    assert torch.equal(ours[others > 0], others[others > 0])
    assert ours[others == 0].max() == 2**-9


@SHAPES
def test_nvfp4_is_what_comfy_kitchen_reads(shape: tuple[int, int]) -> None:
    codes, tiles, tensor_scale = quantize_nvfp4(hard_weight(*shape))
    dense = comfy_kitchen.dequantize_nvfp4(codes, tensor_scale, tiles, torch.float32)
    stored = StoredWeight(NVFP4, codes, tiles, tensor_scale)
    assert torch.equal(stored.dequantize(torch.float32), dense)


def test_the_best_of_some_scales_is_kept() -> None:
    weight = random(128, 512)
    one, two, three = (
        StoredWeight(NVFP4, *quantize_nvfp4(weight, candidates)).dequantize(torch.float32)
        for candidates in ((1.0,), (1.0, 1.5), NVFP4_CANDIDATES)
    )
    errors = [(dense - weight).view(-1, 16).square().sum(1) for dense in (two, three)]
    assert (errors[1] <= errors[0] + 1e-6).all()
    assert rms_error(three, weight) < 0.086 < rms_error(two, weight) < 0.088
    assert rms_error(one, weight) > 0.094


@SHAPES
def test_mxfp8_is_what_comfy_kitchen_makes(shape: tuple[int, int]) -> None:
    weight = hard_weight(*shape)
    stored = MXFP8.quantize(weight)
    codes, scales = comfy_kitchen.quantize_mxfp8(weight)
    assert torch.equal(stored.weight.view(torch.uint8), codes.view(torch.uint8))
    assert stored.weight_scale is not None
    assert torch.equal(stored.weight_scale, scales.view(torch.uint8))
    dense = comfy_kitchen.dequantize_mxfp8(codes, scales, torch.float32)
    assert torch.equal(stored.dequantize(torch.float32), dense)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("weight_format", BLOCKS, ids=lambda s: s.name)
def test_error_and_dtypes(weight_format: WeightFormat, dtype: torch.dtype) -> None:
    weight = hard_weight()
    stored = weight_format.quantize(weight)
    exact = stored.dequantize(torch.float32)
    got = stored.dequantize(dtype)
    assert got.dtype == dtype
    assert torch.equal(got, exact.to(dtype))
    assert rms_error(exact, weight) < LIMITS[weight_format.name]
    assert sum(
        tensor.nbytes for _, tensor in weight_format.quantize(weight.repeat(8, 1)).tensors()
    ) == (pytest.approx(weight.numel() * weight_format.bits, rel=1e-3))


@pytest.mark.parametrize("weight_format", BLOCKS, ids=lambda s: s.name)
def test_a_weight_that_is_not_changed_keeps_its_codes(weight_format: WeightFormat) -> None:
    stored = weight_format.quantize(hard_weight())
    dense = stored.dequantize(torch.float32)
    assert weight_format.requantize is not None
    codes = weight_format.requantize(dense, stored, torch.Generator().manual_seed(0))
    again = replace(stored, weight=codes).dequantize(torch.float32)
    # A code / scale * scale may be a last bit away from the code, and then goes either way.
    assert (again - dense).abs().max() <= 1e-6 * dense.abs().max()
    assert again.isfinite().all()


@pytest.mark.parametrize("weight_format", BLOCKS, ids=lambda s: s.name)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_weights_stay_broken(weight_format: WeightFormat, bad: float) -> None:
    weight = random(32, 64)
    weight[3, 5] = bad
    dense = weight_format.quantize(weight).dequantize(torch.float32)
    assert not dense[3].isfinite().all()


def test_a_weight_keeps_its_tensors_on_their_way() -> None:
    stored = NVFP4.quantize(random(32, 64))
    moved = stored.to(torch.device("meta"))
    assert [name for name, _ in moved.tensors()] == ["weight", "weight_scale", "weight_scale_2"]
    assert all(tensor.is_meta for _, tensor in moved.tensors())
    assert list(StoredWeight(NVFP4, stored.weight).tensors()) == [("weight", stored.weight)]
    assert moved.format is NVFP4
