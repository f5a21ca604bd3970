"""Rotated weights: the same numbers as ComfyUI's kernel library, and the same results."""

import comfy_kitchen
import comfy_kitchen.tensor as kitchen
import pytest
import torch
from torch import Tensor

from tests.unit.quant.layers import (
    linear,
    outlier_tokens,
    outlier_weight,
    plain,
    rms_error,
    row_errors,
)
from wan_model.quant import (
    Linear,
    QuantPolicy,
    StoredWeight,
    WeightFormat,
    convert,
    fastest_matmul,
    merged,
)
from wan_model.quant.kernels import Int8Matmul, KitchenInt8Matmul, kernels_for
from wan_model.quant.rotated_formats import CONVROT_INT4, CONVROT_INT8, CONVROT_W4A8
from wan_model.quant.rotation import ROTATIONS, rotate


def by_name(value: object) -> str | None:
    return value.name if isinstance(value, WeightFormat) else None


def by_kitchen(weight: Tensor, size: int, name: str) -> tuple[StoredWeight, Tensor]:
    """A weight as the library stores it, and what it stands for according to the library."""
    layout = {
        "int8": kitchen.TensorWiseINT8Layout,
        "int4": kitchen.TensorCoreConvRotW4A4Layout,
        "w4a8": kitchen.AsymW4A8Int8Layout,
    }[name]
    options = {"per_channel": True, "convrot": True} if name == "int8" else {}
    codes, params = layout.quantize(weight, convrot_groupsize=size, **options)
    exact = layout.dequantize(codes, params)
    if name == "w4a8":
        parts = params.scale, params.s_channel, params.codebook
        return StoredWeight(CONVROT_W4A8[size], codes, *parts), exact
    formats = CONVROT_INT8 if name == "int8" else CONVROT_INT4
    return StoredWeight(formats[size], codes, params.scale.reshape(-1, 1)), exact


@pytest.mark.parametrize("size", ROTATIONS)
@pytest.mark.parametrize("name", ["int8", "int4", "w4a8"])
def test_codes_mean_what_the_library_says(name: str, size: int) -> None:
    weight = outlier_weight(96, 512)
    stored, exact = by_kitchen(weight, size, name)
    assert stored.weight_codebook is None or name == "w4a8"
    assert rms_error(stored.dequantize(torch.float32), exact) < 2e-7
    assert rms_error(stored.dequantize(torch.bfloat16), exact) < 3e-3
    assert rms_error(exact, weight) < 0.15
    x = outlier_tokens(4, 512)
    for dtype, bound in ((torch.float32, 1e-6), (torch.bfloat16, 8e-3), (torch.float16, 2e-3)):
        layer = Linear(512, 96, compute_dtype=dtype)
        layer.put(stored)
        layer.bias = None
        assert row_errors(layer(x.to(dtype)), x.double() @ exact.double().T).max() < bound


@pytest.mark.parametrize("size", ROTATIONS)
def test_a_rotation_is_orthogonal_and_its_own_inverse(size: int) -> None:
    x = outlier_tokens(3, 512).double()
    assert torch.allclose(rotate(rotate(x, size), size), x, atol=1e-12)
    assert torch.allclose(rotate(x, size).norm(dim=-1), x.norm(dim=-1))
    ones = rotate(torch.ones(size, dtype=torch.float64), size)
    assert torch.allclose(ones, torch.ones_like(ones))  # a regular matrix: rows have equal sums
    assert rotate(x, 0) is x


@pytest.mark.parametrize("weight_format", CONVROT_INT8.values(), ids=by_name)
def test_weights_become_rotated_and_change_at_their_scales(weight_format: WeightFormat) -> None:
    weight = outlier_weight()
    stored = convert(plain(weight), weight_format)
    assert stored.format is weight_format
    exact = stored.dequantize(torch.float32)
    assert row_errors(exact, weight).max() < 0.018
    generator = torch.Generator().manual_seed(0)
    for changed in (exact, 4 * exact):
        draws = [merged(changed, stored, generator).dequantize(torch.float32) for _ in range(24)]
        assert rms_error(torch.stack(draws).mean(0), changed) < 0.003
    assert weight_format.fits((8, 512))
    assert not weight_format.fits((8, 8))


@pytest.mark.parametrize("weight_format", [CONVROT_INT4[64], CONVROT_W4A8[64]], ids=by_name)
def test_4_bits_are_only_read(weight_format: WeightFormat) -> None:
    assert weight_format.requantize is None
    with pytest.raises(NotImplementedError, match="can be read only"):
        weight_format.quantize(outlier_weight())


@pytest.mark.parametrize("weight_format", CONVROT_INT8.values(), ids=by_name)
def test_8_bit_matmuls_rotate_their_input(weight_format: WeightFormat) -> None:
    weight, x = outlier_weight(), outlier_tokens(64, 256).bfloat16()
    _, kernel = kernels_for(weight_format)
    cpu = torch.device("cpu")
    layer = linear(weight, QuantPolicy(device=cpu, target=weight_format, kernels=(kernel,)))
    assert layer.matmul == Int8Matmul()
    assert layer.bias is not None
    exact = x.double() @ weight.double().T + layer.bias.double()
    for matmul in (Int8Matmul(), KitchenInt8Matmul(comfy_kitchen.int8_linear)):
        errors = row_errors(matmul(layer, x), exact)
        assert errors.median() < 0.015
        assert errors.max() < 0.05


@pytest.mark.parametrize("name", ["int4", "w4a8"])
def test_4_bits_are_expanded_to_the_int8_that_they_are(name: str) -> None:
    stored, exact = by_kitchen(outlier_weight(96, 512), 256, name)
    wide = CONVROT_INT8[256]
    kernel = next(k for k in kernels_for(wide) if isinstance(k.make, type))
    layer = Linear(512, 96)
    layer.put(stored)
    layer.matmul = fastest_matmul(torch.device("cpu"), [stored.format], [kernel])
    x = outlier_tokens(4, 512)
    layer.bias = None
    assert row_errors(layer(x), x.double() @ exact.double().T).max() < 1e-6
    expansion = layer.expansion()
    assert expansion is not None
    assert expansion.format is wide
    assert expansion.has_scale
    codes, scale = torch.empty(96, 512, dtype=torch.int8), torch.empty(96, 1)
    expansion.write(codes, scale)
    assert rms_error(StoredWeight(wide, codes, scale).dequantize(torch.float32), exact) < 2e-7
    layer.matmul = fastest_matmul(torch.device("cpu"), [stored.format])
    assert layer.expansion() is None
