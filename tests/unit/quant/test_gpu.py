"""What only a CUDA device can show: the kernels themselves, beside their CPU references."""

import pytest
import torch
import torch.nn.functional as F

from tests.unit.quant.layers import natural_errors, outlier_tokens, outlier_weight
from wan_model.quant import Linear, NumberFormat, WeightPlan, find, scale_weight, widened
from wan_model.quant.kernels import FP8_KERNELS, INT8_KERNELS, Kernel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="No CUDA device."),
]

CUDA, OUT, IN = torch.device("cuda"), 512, 1024
FLOATS = [torch.bfloat16, torch.float16, torch.float32]
KERNELS = [
    *((find("fp8"), kernel) for kernel in FP8_KERNELS),
    *((find("int8"), kernel) for kernel in INT8_KERNELS),
]


def on_gpu(
    number_format: NumberFormat, kernel: Kernel | None, compute_dtype: torch.dtype
) -> Linear:
    reason = kernel.unavailable_reason(CUDA) if kernel else None
    if reason:
        pytest.skip(reason)
    layer = Linear(IN, OUT, compute_dtype=compute_dtype)
    plan = WeightPlan(number_format, CUDA, kernel)
    plan.place(layer, outlier_weight(OUT, IN), None, CUDA)
    layer.bias = None
    return layer


@pytest.mark.parametrize("compute_dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("number_format", "kernel"), KERNELS)
@torch.inference_mode()
def test_kernels_give_what_their_numbers_say(
    number_format: NumberFormat, kernel: Kernel, compute_dtype: torch.dtype
) -> None:
    layer = on_gpu(number_format, kernel, compute_dtype)
    x = outlier_tokens(2, 200, IN).to(CUDA)
    errors = natural_errors(layer(x), x, layer, outlier_weight(OUT, IN).to(CUDA)).square()
    assert errors.mean().sqrt() < 0.042
    assert errors.mean(0).sqrt().max() < 0.08
    bias = torch.ones(OUT, device=CUDA, dtype=compute_dtype)
    layer.bias = torch.nn.Parameter(bias, requires_grad=False)
    dense = scale_weight(layer.weight, layer.state_dict()["weight_scale"])
    expected = F.linear(x, dense, bias.float())
    assert (layer(x) - expected).norm() < 0.042 * expected.norm()


@pytest.mark.parametrize("rows", [1, 16, 17, 100, 512, 1872, 8192])
@pytest.mark.parametrize(("number_format", "kernel"), KERNELS)
def test_any_number_of_tokens(number_format: NumberFormat, kernel: Kernel, rows: int) -> None:
    layer = on_gpu(number_format, kernel, torch.bfloat16)
    x = outlier_tokens(rows, IN).to(CUDA, torch.bfloat16)
    torch.testing.assert_close(layer(x)[-1:], layer(x[-1:]), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(("number_format", "kernel"), KERNELS)
def test_a_broken_token_is_seen(number_format: NumberFormat, kernel: Kernel) -> None:
    layer = on_gpu(number_format, kernel, torch.bfloat16)
    x = outlier_tokens(40, IN).to(CUDA)
    x[7, 3] = float("nan")
    finite = layer(x).isfinite().all(1)
    assert not finite[7]
    assert finite.sum() == 39


@pytest.mark.parametrize("compute_dtype", FLOATS, ids=str)
@torch.inference_mode()
def test_stored_fp8_is_the_same_on_cpu_and_gpu(compute_dtype: torch.dtype) -> None:
    # Also: torch.addcmul with a 16-bit result and fp32 scales, in place.
    layer = on_gpu(find("fp8 storage"), None, compute_dtype)
    layer.bias = torch.nn.Parameter(torch.ones(OUT, device=CUDA), requires_grad=False)
    x = outlier_tokens(40, IN)
    got = layer(x.to(CUDA)).cpu()
    with widened(layer, layer.weight.device):
        assert layer.weight.dtype == compute_dtype
        widened_once = layer(x.to(CUDA)).cpu()
    expected = layer.to("cpu")(x)
    tolerance = 4 * torch.finfo(compute_dtype).eps * expected.float().norm()
    assert (got.float() - expected.float()).norm() < tolerance
    assert (widened_once.float() - expected.float()).norm() < tolerance


@pytest.mark.parametrize("kernel", [None, *FP8_KERNELS], ids=lambda k: k.label if k else "widened")
def test_one_scale_for_all_is_not_rounded(kernel: Kernel | None) -> None:
    # A scale without axes would be rounded to bf16 first, to 1.5: 2.3e-3 off.
    layer = on_gpu(find("fp8"), kernel, torch.bfloat16)
    x = outlier_tokens(200, IN).to(CUDA)
    layer.weight_scale = torch.tensor(1.0, device=CUDA)
    plain = layer(x).double()
    layer.weight_scale = torch.tensor(1.5035, device=CUDA)
    ratio = (layer(x).double() * plain).sum() / plain.square().sum()
    assert abs(ratio - layer.weight_scale.double()) < 5e-4
    exact = scale_weight(layer.weight, layer.weight_scale).bfloat16()
    assert torch.equal(layer.format.dense(layer, torch.bfloat16), exact)
