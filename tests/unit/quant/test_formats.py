"""Products of small numbers: their error against fp32, and what they demand."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.unit.quant.kitchen import MXFP8_PRODUCTS, NVFP4_PRODUCTS
from tests.unit.quant.layers import (
    IN,
    OUT,
    linear,
    natural_errors,
    outlier_tokens,
    outlier_weight,
    random,
    rms_error,
)
from wan_model.quant import (
    Linear,
    ScaledFormat,
    StoredWeight,
    find,
    scale_weight,
)
from wan_model.quant.block_formats import (
    MxFp8Format,
    NvFp4Format,
)
from wan_model.quant.fp8 import Fp8Format, UnitScaleFp8Format
from wan_model.quant.int8 import Int8Format, KitchenInt8Format
from wan_model.quant.kernels import FP8_KERNELS, INT8_KERNELS, Kernel
from wan_model.quant.plan import WeightPlan

CPU = torch.device("cpu")
FLOATS = [torch.bfloat16, torch.float16, torch.float32]


def plan(name: str, kernel: Kernel | None = None) -> WeightPlan:
    return WeightPlan(find(name), CPU, kernel)


ROWWISE_FP8, UNIT_SCALE_FP8 = FP8_KERNELS
TORCH_INT8 = INT8_KERNELS[1]
PLANS = {
    "bf16": (plan("bf16"), 0.004, 0.006),
    "fp8 storage": (plan("fp8 storage"), 0.03, 0.05),
    "fp8": (plan("fp8", ROWWISE_FP8), 0.038, 0.06),
    "fp8, scaled afterwards": (plan("fp8", UNIT_SCALE_FP8), 0.038, 0.06),
    "int8": (plan("int8", TORCH_INT8), 0.022, 0.035),
    "nvfp4 storage": (plan("nvfp4 storage"), 0.095, 0.14),
    "nvfp4": (plan("nvfp4", NVFP4_PRODUCTS), 0.14, 0.18),
    "mxfp8": (plan("mxfp8", MXFP8_PRODUCTS), 0.04, 0.065),
}
"""Stated bounds on data with outliers: rms error of all, and of the worst token or feature."""


@pytest.mark.parametrize("compute_dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", PLANS)
@torch.inference_mode()
def test_error_against_fp32(name: str, compute_dtype: torch.dtype) -> None:
    weight, x = outlier_weight(), outlier_tokens(2, 40, IN)
    weight_plan, limit, worst_limit = PLANS[name]
    layer = linear(weight, weight_plan, compute_dtype)
    layer.bias = None  # rounding a result to 16 bits would hide the small features' errors
    got = layer(x)
    assert got.dtype == compute_dtype
    assert got.shape == (2, 40, OUT)
    errors = natural_errors(got, x, layer, weight)
    assert errors.square().mean().sqrt() < limit
    assert errors.square().mean(0).sqrt().max() < worst_limit
    assert errors.square().mean(1).sqrt().max() < worst_limit


def test_the_input_is_not_changed() -> None:
    x = outlier_tokens(40, IN)
    before = x.clone()
    for weight_plan, _, _ in PLANS.values():
        linear(outlier_weight(), weight_plan)(x)
        assert torch.equal(x, before)


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 33])
@pytest.mark.parametrize("name", ["fp8", "fp8, scaled afterwards", "int8", "mxfp8"])
def test_any_number_of_tokens_gives_the_same(name: str, rows: int) -> None:
    layer = linear(outlier_weight(), PLANS[name][0])
    x = outlier_tokens(64, IN)
    assert torch.equal(layer(x[:rows]), layer(x)[:rows])


@pytest.mark.parametrize("compute_dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", PLANS)
@torch.inference_mode()
def test_the_bias_is_added(name: str, compute_dtype: torch.dtype) -> None:
    layer = linear(outlier_weight(), PLANS[name][0], compute_dtype)
    x, bias = outlier_tokens(2, 40, IN), layer.state_dict()["bias"].double()
    with_bias = layer(x).double()
    layer.bias = None
    torch.testing.assert_close(with_bias, layer(x).double() + bias, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", ["fp8", "fp8, scaled afterwards", "int8"])
def test_no_bias_and_a_scale_of_one_number(name: str) -> None:
    weight_plan, limit, _ = PLANS[name]
    limit *= 1.1  # a largest number per tensor is a worse fit
    dense = random(OUT, IN, seed=1)
    storage = weight_plan.number_format.storage.dtype
    largest = {torch.int8: 127, torch.float8_e4m3fn: 448}[storage]
    scale = dense.abs().amax() / largest
    numbers = dense / scale
    layer = Linear(IN, OUT, compute_dtype=torch.bfloat16)
    layer.bias = None
    numbers = (numbers.round() if storage == torch.int8 else numbers).to(storage)
    weight_plan.place(layer, StoredWeight(numbers, scale), CPU)
    assert torch.equal(layer.weight.float(), numbers.float())
    assert layer.state_dict()["weight_scale"].shape == ()
    x = random(40, IN, seed=2)
    assert rms_error(layer(x), F.linear(x, dense)) < limit


@pytest.mark.parametrize("name", ["fp8 storage", "fp8", "fp8, scaled afterwards", "int8"])
def test_dense_is_numbers_times_scale(name: str) -> None:
    layer = linear(outlier_weight(), PLANS[name][0])
    exact = scale_weight(layer.weight, layer.weight_scale)
    for dtype in FLOATS:
        assert torch.equal(layer.format.dense(layer, dtype), exact.to(dtype))


@pytest.mark.parametrize("name", ["fp8", "fp8, scaled afterwards", "int8", "mxfp8"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_token_breaks_only_itself_and_is_seen(name: str, bad: float) -> None:
    layer = linear(outlier_weight(), PLANS[name][0])
    x = outlier_tokens(40, IN)
    x[7, 3] = bad
    finite = layer(x).isfinite()
    assert not finite[7].all()
    assert finite[:7].all()
    assert finite[8:].all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_token_is_seen_where_tokens_share_a_scale(bad: float) -> None:
    layer = linear(outlier_weight(), PLANS["nvfp4"][0])
    x = outlier_tokens(40, IN)
    x[7, 3] = bad
    assert not layer(x)[7].isfinite().all()


def test_large_sums_do_not_overflow_fp16() -> None:
    weight, x = torch.full((OUT, IN), 1e-3), torch.full((40, IN), 6e4)
    for name in ("fp8", "fp8, scaled afterwards", "int8", "nvfp4", "mxfp8"):
        got = linear(weight, PLANS[name][0], torch.float16)(x)
        torch.testing.assert_close(got.float(), F.linear(x, weight), rtol=1e-2, atol=2)


@pytest.mark.parametrize("name", ["fp8", "int8", "nvfp4", "mxfp8"])
def test_tensors_may_be_copies_made_for_one_call(name: str) -> None:
    layer = linear(outlier_weight(), PLANS[name][0])
    x, number_format = outlier_tokens(40, IN), layer.format
    expected = layer(x)
    copies = Linear(IN, OUT, compute_dtype=torch.bfloat16)
    copies.weight, copies.bias = layer.weight, layer.bias
    copies.weight_scale, copies.weight_scale_2 = layer.weight_scale, layer.weight_scale_2
    layer.to("meta")
    assert torch.equal(number_format.matmul(copies, x), expected)


@pytest.mark.parametrize("name", PLANS)
def test_the_product_compiles_without_breaks(name: str) -> None:
    layer, x = linear(outlier_weight(), PLANS[name][0]), outlier_tokens(40, IN)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with torch.inference_mode():
        assert torch.equal(compiled(x), layer(x))


@pytest.mark.parametrize("compute_dtype", [torch.bfloat16, torch.float32], ids=str)
def test_gradients_pass_through_widened_weights(compute_dtype: torch.dtype) -> None:
    layer = linear(outlier_weight(), PLANS["fp8 storage"][0], compute_dtype)
    x = outlier_tokens(40, IN).requires_grad_()
    got = layer(x)
    with torch.inference_mode():
        assert rms_error(layer(x), got.detach()) < torch.finfo(compute_dtype).eps
    got.float().square().sum().backward()
    assert x.grad is not None
    expected = 2 * got.detach().float() @ layer.format.dense(layer, torch.float32)
    assert rms_error(x.grad, expected) < 0.01


class Recorder:
    """Stands for comfy-kitchen's int8_linear."""

    def __call__(
        self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, dtype: torch.dtype
    ) -> Tensor:
        return F.linear(x.float(), scale_weight(weight, scale), bias.float()).to(dtype)


def test_comfy_kitchen_is_called_with_the_layers_tensors() -> None:
    layer = linear(outlier_weight(), plan("int8", TORCH_INT8))
    layer.format = KitchenInt8Format(Recorder())
    x = outlier_tokens(2, 40, IN)
    dense = scale_weight(layer.weight, layer.weight_scale)
    expected = F.linear(x, dense, layer.state_dict()["bias"].float()).bfloat16()
    assert torch.equal(layer(x), expected)
    assert layer.format == KitchenInt8Format(layer.format.int8_linear)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_comfy_kitchen_cannot_hide_a_broken_token(broken: float) -> None:
    layer = linear(outlier_weight(), plan("int8", TORCH_INT8))
    recorder = Recorder()
    layer.format = KitchenInt8Format(lambda x, *rest: recorder(x.nan_to_num(-1, 1, -1), *rest))
    x = outlier_tokens(2, 40, IN)
    x[1, 7, 3] = broken
    seen = ~layer(x).isfinite().all(-1)
    assert seen.nonzero().tolist() == [[1, 7]]


MISFITS = [
    ((96, 256), None, "numbers with a scale"),
    ((96, 256), (96, 4, 1), "one scale per tensor or row"),
    ((100, 256), (), "multiples of"),
    ((96, 244), (96, 1), "multiples of"),
]


@pytest.mark.parametrize("kernel", [ROWWISE_FP8, UNIT_SCALE_FP8, *INT8_KERNELS], ids=str)
@pytest.mark.parametrize(("shape", "scale", "reason"), MISFITS)
def test_constraints_are_data(kernel: Kernel, shape: tuple, scale: tuple, reason: str) -> None:
    dtype, one = kernel.storage.dtype, torch.ones(())
    scales = None if scale is None else torch.ones(scale)
    assert reason in (kernel.misfit(StoredWeight(torch.zeros(shape).to(dtype), scales)) or "")
    assert kernel.misfit(StoredWeight(torch.zeros(96, 256).to(dtype), one)) is None
    assert "numbers with a scale" in (kernel.misfit(StoredWeight(torch.zeros(96, 256), one)) or "")


@pytest.mark.parametrize(
    ("kernel", "other"), [(NVFP4_PRODUCTS, MXFP8_PRODUCTS), (MXFP8_PRODUCTS, ROWWISE_FP8)], ids=str
)
def test_constraints_of_blocks(kernel: Kernel, other: Kernel) -> None:
    quantise = kernel.storage.quantise
    assert kernel.misfit(quantise(torch.zeros(96, 256))) is None
    assert "multiples of" in (kernel.misfit(quantise(torch.zeros(88, 256))) or "")
    assert "numbers with a scale" in (kernel.misfit(other.storage.quantise(random(96, 256))) or "")
    assert "numbers with a scale" in (other.misfit(quantise(random(96, 256))) or "")


@pytest.mark.parametrize("name", ["fp8", "int8"])
@pytest.mark.parametrize("shape", [(90, 256), (96, 250)])
def test_a_layer_that_does_not_fit_is_widened(name: str, shape: tuple[int, int]) -> None:
    weight, x = outlier_weight(*shape), outlier_tokens(40, shape[1])
    layer = linear(weight, PLANS[name][0])
    assert type(layer.format) is ScaledFormat
    layer.bias = None
    errors = natural_errors(layer(x), x, layer, weight)
    assert errors.square().mean().sqrt() < PLANS[name][1]


def test_scales_per_block_are_widened() -> None:
    layer = Linear(IN, OUT, compute_dtype=torch.bfloat16)
    numbers = random(OUT, IN).to(torch.float8_e4m3fn)
    plan("fp8", ROWWISE_FP8).place(layer, StoredWeight(numbers, torch.ones(OUT, 4, 1)), CPU)
    assert type(layer.format) is ScaledFormat
    assert layer.state_dict()["weight_scale"].shape == (OUT, 4, 1)


def test_kernels_have_names_of_their_own() -> None:
    formats = [ScaledFormat(), Fp8Format(), UnitScaleFp8Format(), Int8Format()]
    formats += [KitchenInt8Format(Recorder()), NVFP4_PRODUCTS.make(), MXFP8_PRODUCTS.make()]
    formats += [NvFp4Format(), MxFp8Format()]
    for one, other in itertools.combinations(formats, 2):
        assert one.name != other.name
