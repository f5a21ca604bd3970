"""The sdpa backend against the definition of attention, in float64."""

import pytest
import torch
from torch.nn.attention import SDPBackend

from tests.unit.attention.fakes import exact
from wan_model.attention.sdpa import kernel, sdpa
from wan_model.errors import BackendError


def random(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("head_dim", [8, 24, 128])
@pytest.mark.parametrize(("length", "source"), [(1, 1), (7, 7), (5, 40), (40, 5)])
def test_fp32(length, source, head_dim):
    q = random(2, length, 3, head_dim, seed=0)
    k, v = (random(2, source, 3, head_dim, seed=seed) for seed in (1, 2))
    got = sdpa(q, k, v)
    assert got.shape == q.shape
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), exact(q, k, v), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 5e-3), (torch.float16, 1e-3)])
def test_half_precision(dtype, limit):
    q, k, v = (random(1, 33, 2, 64, seed=seed).to(dtype) for seed in range(3))
    got = sdpa(q, k, v)
    assert got.dtype == dtype
    expected = exact(q, k, v)
    assert ((got - expected).square().mean() / expected.square().mean()).sqrt() < limit


def test_views_of_larger_tensors():
    # q, k, v as one projection would give them.
    q, k, v = random(2, 9, 3, 4, 16, seed=0).unbind(2)
    assert not q.is_contiguous()
    torch.testing.assert_close(sdpa(q, k, v).double(), exact(q, k, v), rtol=1e-5, atol=2e-6)


def test_large_scores_do_not_overflow():
    q, k, v = (100 * random(1, 6, 2, 16, seed=seed) for seed in range(3))
    got = sdpa(q, k, v)
    assert got.isfinite().all()
    torch.testing.assert_close(got.double(), exact(q, k, v), rtol=1e-4, atol=1e-3)


def test_a_kernel_by_name_is_that_kernel_or_an_error():
    q, k, v = (random(1, 6, 2, 16, seed=seed) for seed in range(3))
    math = kernel(SDPBackend.MATH)(q, k, v)
    torch.testing.assert_close(math.double(), exact(q, k, v), rtol=1e-5, atol=2e-6)
    with pytest.raises(BackendError, match="PyTorch's CUDNN_ATTENTION kernel does not take these"):
        kernel(SDPBackend.CUDNN_ATTENTION)(q, k, v)


def test_other_errors_of_torch_stay_as_they_are():
    q = random(1, 6, 2, 16, seed=0)
    with pytest.raises(RuntimeError) as error:
        kernel(SDPBackend.MATH)(q, q[..., :8], q)
    assert not isinstance(error.value, BackendError)
