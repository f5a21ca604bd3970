"""Scales of columns: Triton's kernel, interpreted on the CPU, beside PyTorch's two passes."""

import pytest
import torch

from wan_model.quant.column_scales import TOLERANCE, in_two_passes, scale_columns, trial_error


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_kernel_computes_what_pytorch_does(dtype: torch.dtype):
    if torch.cuda.is_available():
        pytest.skip("Not interpreted on a GPU.")
    kernel = pytest.importorskip("wan_model.quant.scaling_kernels")
    bound = 1e-6 if dtype == torch.float32 else TOLERANCE
    assert trial_error(kernel.scale_in_place, "cpu", dtype) < bound


def test_a_wrong_kernel_fails_its_trial():
    def forgets_the_bias(out, scale, _):
        return in_two_passes(out, scale, None)

    assert trial_error(forgets_the_bias, "cpu", torch.float32) > TOLERANCE
    assert trial_error(in_two_passes, "cpu", torch.bfloat16) < TOLERANCE


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="No CUDA device.")
@pytest.mark.parametrize("shape", [(2, 77, 5120), (1, 8192, 13824)])
def test_on_a_gpu(shape: tuple[int, ...]):
    x = torch.randn(shape, device="cuda")
    scale, bias = torch.rand(shape[-1], 1, device="cuda"), torch.randn(shape[-1], device="cuda")
    exact = x * scale.flatten() + bias
    found = scale_columns(x.bfloat16(), scale, bias.bfloat16()).float()
    assert ((found - exact).norm() / exact.norm()).item() < TOLERANCE
