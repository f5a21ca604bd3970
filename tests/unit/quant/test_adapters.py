"""LoRAs beside weights of every format, against fp64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.unit.quant.layers import outlier_tokens, outlier_weight, plain, random, rms_error
from tests.unit.quant.loras import Lora, exact_change, give, lora
from wan_model.quant import (
    DEQUANTIZED,
    FORMATS,
    Kronecker,
    Linear,
    WeightFormat,
    convert,
    stacked,
)
from wan_model.quant.formats import FP8_SCALED, INT8_SCALED, MXFP8, NVFP4
from wan_model.quant.kernels import Fp8Matmul, Int8Matmul, Matmul, UnitScaleFp8Matmul

OUT, IN = 96, 256
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}
"""Rms error of one rounding, and a little more for the inner one."""
BITS_16 = (torch.bfloat16, torch.float16)
USED = [one for one in FORMATS if one.is_quantized or one.name in ("fp32", "bf16", "fp16")]
STRENGTHS = {
    "one": [(16, 1.0)],
    "odd rank": [(5, 0.7)],
    "negative": [(16, -0.4)],
    "zero": [(16, 0.0)],
    "three of two ranks": [(16, 1.0), (8, -0.4), (16, 0.3)],
}


def layer_of(
    weight_format: WeightFormat, dtype: torch.dtype, matmul: Matmul = DEQUANTIZED
) -> Linear:
    """Returns a layer with a bias and a weight in some format."""
    layer = Linear(IN, OUT, compute_dtype=dtype)
    layer.put(convert(plain(outlier_weight(OUT, IN)), weight_format))
    layer.matmul = matmul
    layer.bias = nn.Parameter(random(OUT, seed=3).to(dtype), requires_grad=False)
    return layer


def loras_of(layer: Linear, ranks: list[tuple[int, float]]) -> list[Lora]:
    return [lora(layer, rank, 0.05 * scale, n) for n, (rank, scale) in enumerate(ranks)]


def exact(layer: Linear, x: Tensor, loras: list[Lora]) -> Tensor:
    """Returns the result with the weight as it is stored and LoRAs merged into it, in fp64."""
    weight = layer.stored().dequantize(torch.float32).double() + exact_change(layer, loras)
    assert layer.bias is not None
    return F.linear(x.double(), weight, layer.bias.double())


@pytest.mark.parametrize("ranks", STRENGTHS.values(), ids=STRENGTHS)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("weight_format", USED, ids=lambda one: one.name)
def test_they_are_exact_within_rounding(
    weight_format: WeightFormat, dtype: torch.dtype, ranks: list[tuple[int, float]]
) -> None:
    layer, x = layer_of(weight_format, dtype), random(2, 40, IN).to(dtype)
    bare, before = layer(x), layer.stored().dequantize(torch.float32).clone()
    loras = loras_of(layer, ranks)
    give(layer, loras)
    got = layer(x)
    assert got.dtype == dtype
    bare_error = rms_error(bare, exact(layer, x, []))
    assert rms_error(got, exact(layer, x, loras)) < max(ROUNDING[dtype], 1.2 * bare_error)
    assert torch.equal(layer.stored().dequantize(torch.float32), before)


KERNELS = [
    (FP8_SCALED, Fp8Matmul()),
    (FP8_SCALED, UnitScaleFp8Matmul()),
    (INT8_SCALED, Int8Matmul()),
]


@pytest.mark.parametrize("dtype", BITS_16, ids=str)
@pytest.mark.parametrize(("weight_format", "matmul"), KERNELS, ids=lambda one: one.name)
def test_they_are_added_to_matmuls_of_codes(
    weight_format: WeightFormat, matmul: Matmul, dtype: torch.dtype
) -> None:
    """The activations that LoRAs are multiplied with are not those that were quantized."""
    layer, x = layer_of(weight_format, dtype, matmul), random(2, 40, IN).to(dtype)
    bare = layer(x).double()
    loras = loras_of(layer, STRENGTHS["three of two ranks"])
    give(layer, loras)
    effect = x.double() @ exact_change(layer, loras).T
    added = layer(x).double() - bare
    assert (added - effect).norm() < 3 * ROUNDING[dtype] * (bare.norm() + effect.norm())


@pytest.mark.parametrize(
    "weight_format", [FP8_SCALED, INT8_SCALED, MXFP8, NVFP4], ids=lambda f: f.name
)
def test_a_small_lora_is_no_noise(weight_format: WeightFormat) -> None:
    """Of 3 % of the weight. Merged, rounding made 0.4 to 3 times as much of it as it has itself."""
    layer, x = layer_of(weight_format, torch.float32), outlier_tokens(40, IN)
    bare, one = layer(x).double(), lora(layer, 16, 1.0)
    weight = layer.stored().dequantize(torch.float32)
    part = 0.03 * weight.norm() / exact_change(layer, [one]).norm()
    loras = [one._replace(scale=part.item())]
    give(layer, loras)
    effect = x.double() @ exact_change(layer, loras).T
    assert rms_error(layer(x).double() - bare, effect) < 1e-4


def test_fp32_activations_are_rounded_to_the_compute_dtype() -> None:
    layer, x = layer_of(FP8_SCALED, torch.bfloat16), random(40, IN)
    give(layer, loras_of(layer, [(16, 1.0)]))
    assert torch.equal(layer(x), layer(x.bfloat16()))


def test_another_strength_is_another_scale() -> None:
    layer, x = layer_of(FP8_SCALED, torch.float32), random(40, IN)
    give(layer, loras_of(layer, [(16, 1.0)]))
    layer.adapters[0].scale.mul_(-2)
    expected = exact(layer, x, loras_of(layer, [(16, -2.0)]))
    assert rms_error(layer(x), expected) < ROUNDING[torch.float32]
    layer.adapters[0].scale.zero_()
    with_zero = layer(x)
    layer.adapters = ()
    assert torch.equal(with_zero, layer(x))


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_a_kronecker_product_is_exact_within_rounding(dtype: torch.dtype) -> None:
    layer, x = layer_of(FP8_SCALED, dtype), random(3, 1000, IN).to(dtype)
    first, second = random(8, 4, seed=1), 0.5 * random(OUT // 8, IN // 4, seed=2)
    scale = torch.tensor([0.7])
    bare = layer(x)
    layer.adapters = (Kronecker(first.to(dtype), second.to(dtype), scale),)
    product = torch.kron(first.to(dtype).double(), second.to(dtype).double())
    effect = 0.7 * x.double() @ product.T
    assert effect.norm() > 0.1 * bare.double().norm()
    error = layer(x).double() - bare.double() - effect
    assert error.norm() < 2 * ROUNDING[dtype] * (bare.double().norm() + effect.norm())
    scale.zero_()
    assert torch.equal(layer(x), bare)


@pytest.mark.usefixtures("fresh_compiler")
def test_a_kronecker_product_is_compiled_whole() -> None:
    """The backend does not matter to whether there are graph breaks."""
    layer, x = layer_of(FP8_SCALED, torch.float32), random(40, IN)
    factors = random(8, 4, seed=1), random(OUT // 8, IN // 4, seed=2)
    layer.adapters = (Kronecker(*factors, torch.tensor([0.7])),)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), layer(x))


def test_one_lora_of_the_right_kind_is_not_copied() -> None:
    down, up = random(16, IN), random(OUT, 16)
    a, b = stacked([(down, up)], torch.float32)
    assert a is down
    assert b is up
    a, b = stacked([(down, up), (down[:3], up[:, :3])], torch.bfloat16)
    assert (a.shape, b.shape) == ((32, IN), (OUT, 32))
    assert a.is_contiguous()
    assert b.is_contiguous()
    assert not a[19:].any()
    assert not b[:, 19:].any()


def test_gradients_pass() -> None:
    layer = layer_of(FP8_SCALED, torch.float32)
    loras = loras_of(layer, [(16, 1.0)])
    give(layer, loras)
    x = random(4, IN).requires_grad_()
    layer(x).sum().backward()
    weight = layer.stored().dequantize(torch.float32).double() + exact_change(layer, loras)
    assert x.grad is not None
    torch.testing.assert_close(x.grad[0], weight.sum(0).float())
