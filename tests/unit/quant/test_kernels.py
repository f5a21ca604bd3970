"""Matmuls of quantized weights: their error against fp32, and what they demand."""

from dataclasses import replace
from operator import attrgetter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.unit.quant.kitchen import MXFP8_KERNEL, NVFP4_KERNEL
from tests.unit.quant.layers import (
    IN,
    OUT,
    linear,
    natural_errors,
    outlier_tokens,
    outlier_weight,
    policy_of,
    random,
    rms_error,
    scaled,
)
from wan_model.quant import DEQUANTIZED, Linear, scale_weight
from wan_model.quant.formats import FP8_SCALED, INT8_SCALED
from wan_model.quant.kernels import KERNELS, KitchenInt8Matmul, MatmulKernel, kernels_for

CPU = torch.device("cpu")
FLOATS = [torch.bfloat16, torch.float16, torch.float32]

ROWWISE_FP8, UNIT_SCALE_FP8 = kernels_for(FP8_SCALED)
INT8_KERNELS = kernels_for(INT8_SCALED)
TORCH_INT8 = INT8_KERNELS[1]
POLICIES = {
    "bf16": (policy_of("bf16"), 0.004, 0.006),
    "fp8 storage": (policy_of("fp8 storage"), 0.03, 0.05),
    "fp8": (policy_of("fp8", ROWWISE_FP8), 0.038, 0.06),
    "fp8, scaled afterwards": (policy_of("fp8", UNIT_SCALE_FP8), 0.038, 0.06),
    "int8": (policy_of("int8", TORCH_INT8), 0.022, 0.035),
    "nvfp4 storage": (policy_of("nvfp4 storage"), 0.095, 0.14),
    "nvfp4": (policy_of("nvfp4", NVFP4_KERNEL), 0.14, 0.18),
    "mxfp8": (policy_of("mxfp8", MXFP8_KERNEL), 0.04, 0.065),
}
"""Stated bounds on data with outliers: rms error of all, and of the worst token or feature."""


@pytest.mark.parametrize("compute_dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", POLICIES)
@torch.inference_mode()
def test_error_against_fp32(name: str, compute_dtype: torch.dtype) -> None:
    weight, x = outlier_weight(), outlier_tokens(2, 40, IN)
    policy, limit, worst_limit = POLICIES[name]
    layer = linear(weight, policy, compute_dtype)
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
    for policy, _, _ in POLICIES.values():
        linear(outlier_weight(), policy)(x)
        assert torch.equal(x, before)


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 33])
@pytest.mark.parametrize("name", ["fp8", "fp8, scaled afterwards", "int8", "nvfp4", "mxfp8"])
def test_tokens_do_not_depend_on_others(name: str, rows: int) -> None:
    """Of the same sample, of another one of a batch, or of another GPU's part of the video."""
    layer = linear(outlier_weight(), POLICIES[name][0])
    x = outlier_tokens(64, IN)
    assert torch.equal(layer(x[-rows:]), layer(x)[-rows:]), "without the large one"


@pytest.mark.parametrize("compute_dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", POLICIES)
@torch.inference_mode()
def test_the_bias_is_added(name: str, compute_dtype: torch.dtype) -> None:
    layer = linear(outlier_weight(), POLICIES[name][0], compute_dtype)
    x, bias = outlier_tokens(2, 40, IN), layer.state_dict()["bias"].double()
    with_bias = layer(x).double()
    layer.bias = None
    torch.testing.assert_close(with_bias, layer(x).double() + bias, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", ["fp8", "fp8, scaled afterwards", "int8"])
def test_no_bias_and_a_scale_of_one_number(name: str) -> None:
    policy, limit, _ = POLICIES[name]
    limit *= 1.1  # a largest number per tensor is a worse fit
    dense = random(OUT, IN, seed=1)
    storage = policy.target.dtype
    largest = {torch.int8: 127, torch.float8_e4m3fn: 448}[storage]
    scale = dense.abs().amax() / largest
    codes = dense / scale
    layer = Linear(IN, OUT, compute_dtype=torch.bfloat16)
    layer.bias = None
    codes = (codes.round() if storage == torch.int8 else codes).to(storage)
    policy.place(layer, scaled(codes, scale), CPU)
    assert torch.equal(layer.weight.float(), codes.float())
    assert layer.state_dict()["weight_scale"].shape == ()
    x = random(40, IN, seed=2)
    assert rms_error(layer(x), F.linear(x, dense)) < limit


@pytest.mark.parametrize("name", ["fp8 storage", "fp8", "fp8, scaled afterwards", "int8"])
def test_dequantized_is_codes_times_scale(name: str) -> None:
    layer = linear(outlier_weight(), POLICIES[name][0])
    exact = scale_weight(layer.weight, layer.weight_scale)
    for dtype in FLOATS:
        assert torch.equal(layer.stored().dequantize(dtype), exact.to(dtype))


@pytest.mark.parametrize("name", ["fp8", "fp8, scaled afterwards", "int8", "mxfp8"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_token_breaks_only_itself_and_is_seen(name: str, bad: float) -> None:
    layer = linear(outlier_weight(), POLICIES[name][0])
    x = outlier_tokens(40, IN)
    x[7, 3] = bad
    finite = layer(x).isfinite()
    assert not finite[7].all()
    assert finite[:7].all()
    assert finite[8:].all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_token_is_seen_where_tokens_share_a_scale(bad: float) -> None:
    layer = linear(outlier_weight(), POLICIES["nvfp4"][0])
    x = outlier_tokens(40, IN)
    x[7, 3] = bad
    assert not layer(x)[7].isfinite().all()


def test_large_sums_do_not_overflow_fp16() -> None:
    weight, x = torch.full((OUT, IN), 1e-3), torch.full((40, IN), 6e4)
    for name in ("fp8", "fp8, scaled afterwards", "int8", "nvfp4", "mxfp8"):
        got = linear(weight, POLICIES[name][0], torch.float16)(x)
        rtol = 3e-2 if name == "nvfp4" else torch.finfo(torch.float16).eps
        torch.testing.assert_close(got.float(), F.linear(x, weight), rtol=rtol, atol=0)


@pytest.mark.parametrize("name", ["fp8", "int8", "nvfp4", "mxfp8"])
def test_tensors_may_be_copies_made_for_one_call(name: str) -> None:
    layer = linear(outlier_weight(), POLICIES[name][0])
    x, matmul = outlier_tokens(40, IN), layer.matmul
    expected = layer(x)
    copies = Linear(IN, OUT, compute_dtype=torch.bfloat16)
    copies.put(layer.stored())
    copies.bias = layer.bias
    layer.to("meta")
    assert torch.equal(matmul(copies, x), expected)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", POLICIES)
def test_the_matmul_compiles_without_breaks(name: str) -> None:
    layer, x = linear(outlier_weight(), POLICIES[name][0]), outlier_tokens(40, IN)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with torch.inference_mode():
        assert torch.equal(compiled(x), layer(x))


@pytest.mark.parametrize("compute_dtype", [torch.bfloat16, torch.float32], ids=str)
def test_gradients_pass_through_dequantized_weights(compute_dtype: torch.dtype) -> None:
    layer = linear(outlier_weight(), POLICIES["fp8 storage"][0], compute_dtype)
    x = outlier_tokens(40, IN).requires_grad_()
    got = layer(x)
    with torch.inference_mode():
        assert rms_error(layer(x), got.detach()) < torch.finfo(compute_dtype).eps
    got.float().square().sum().backward()
    assert x.grad is not None
    expected = 2 * got.detach().float() @ layer.stored().dequantize(torch.float32)
    assert rms_error(x.grad, expected) < 0.01


class Recorder:
    """Replaces comfy-kitchen's int8_linear."""

    def __call__(
        self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, dtype: torch.dtype
    ) -> Tensor:
        return F.linear(x.float(), scale_weight(weight, scale), bias.float()).to(dtype)


def test_comfy_kitchen_is_called_with_the_layers_tensors() -> None:
    layer = linear(outlier_weight(), POLICIES["int8"][0])
    layer.matmul = KitchenInt8Matmul(Recorder())
    x = outlier_tokens(2, 40, IN)
    dense = scale_weight(layer.weight, layer.weight_scale)
    expected = F.linear(x, dense, layer.state_dict()["bias"].float()).bfloat16()
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_comfy_kitchen_cannot_hide_a_broken_token(broken: float) -> None:
    layer = linear(outlier_weight(), POLICIES["int8"][0])
    recorder = Recorder()
    layer.matmul = KitchenInt8Matmul(lambda x, *rest: recorder(x.nan_to_num(-1, 1, -1), *rest))
    x = outlier_tokens(2, 40, IN)
    x[1, 7, 3] = broken
    seen = ~layer(x).isfinite().all(-1)
    assert seen.nonzero().tolist() == [[1, 7]]


MISFITS = [
    ((96, 256), None, "weights with a scale"),
    ((96, 256), (96, 4, 1), "one scale per tensor or row"),
    ((100, 256), (), "multiples of"),
    ((96, 244), (96, 1), "multiples of"),
]


@pytest.mark.parametrize(
    "kernel", [ROWWISE_FP8, UNIT_SCALE_FP8, *INT8_KERNELS], ids=attrgetter("label")
)
@pytest.mark.parametrize(("shape", "scale", "reason"), MISFITS)
def test_constraints_are_data(
    kernel: MatmulKernel, shape: tuple, scale: tuple, reason: str
) -> None:
    dtype, one = kernel.format.dtype, torch.ones(())
    weight = torch.zeros(shape).to(dtype)
    stored = replace(scaled(weight, one), weight_scale=None if scale is None else torch.ones(scale))
    assert reason in (kernel.misfit(stored) or "")
    assert kernel.misfit(scaled(torch.zeros(96, 256).to(dtype), one)) is None
    assert "weights with a scale" in (kernel.misfit(scaled(torch.zeros(96, 256), one)) or "")


@pytest.mark.parametrize(
    ("kernel", "other"),
    [(NVFP4_KERNEL, MXFP8_KERNEL), (MXFP8_KERNEL, ROWWISE_FP8)],
    ids=attrgetter("label"),
)
def test_constraints_of_blocks(kernel: MatmulKernel, other: MatmulKernel) -> None:
    quantize = kernel.format.quantize
    assert kernel.misfit(quantize(torch.zeros(96, 256))) is None
    assert "multiples of" in (kernel.misfit(quantize(torch.zeros(88, 256))) or "")
    assert "weights with a scale" in (kernel.misfit(other.format.quantize(random(96, 256))) or "")
    assert "weights with a scale" in (other.misfit(quantize(random(96, 256))) or "")


@pytest.mark.parametrize("name", ["fp8", "int8"])
@pytest.mark.parametrize("shape", [(90, 256), (96, 250)])
def test_a_layer_that_does_not_fit_is_dequantized(name: str, shape: tuple[int, int]) -> None:
    weight, x = outlier_weight(*shape), outlier_tokens(40, shape[1])
    layer = linear(weight, POLICIES[name][0])
    assert layer.matmul is DEQUANTIZED
    layer.bias = None
    errors = natural_errors(layer(x), x, layer, weight)
    assert errors.square().mean().sqrt() < POLICIES[name][1]


def test_scales_per_block_are_dequantized() -> None:
    layer = Linear(IN, OUT, compute_dtype=torch.bfloat16)
    codes = random(OUT, IN).to(torch.float8_e4m3fn)
    policy_of("fp8", ROWWISE_FP8).place(layer, scaled(codes, torch.ones(OUT, 4, 1)), CPU)
    assert layer.matmul is DEQUANTIZED
    assert layer.state_dict()["weight_scale"].shape == (OUT, 4, 1)


def test_kernels_have_names_of_their_own() -> None:
    assert len({kernel.label for kernel in KERNELS}) == len(KERNELS)
    made = [ROWWISE_FP8.make(), UNIT_SCALE_FP8.make(), TORCH_INT8.make(), DEQUANTIZED]
    made += [KitchenInt8Matmul(Recorder()), NVFP4_KERNEL.make(), MXFP8_KERNEL.make()]
    assert len({matmul.name for matmul in made}) == len(made)
