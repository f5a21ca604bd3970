"""FlashAttention-3 in fp8: what the preparation of q, k and v is good for."""

from types import SimpleNamespace

import pytest
import torch

from tests.unit.attention import fakes
from wan_model.attention import Platform, flash_attn_3_fp8
from wan_model.attention.backend import UnavailableError
from wan_model.attention.flash_attn_3_fp8 import BACKEND, FP8_MAX, PLAIN, hadamard
from wan_model.attention.kernel_timing import checked, exact, rms_error, sample

KINDS = ("plain", "means", "outliers", "small", "large")
BOUND = {"plain": 5.8e-2, "means": 3e-3, "outliers": 5.2e-2, "small": 5.8e-2, "large": 5.8e-2}
"""Rms errors on a GPU. Simulated, at most: 5.3e-2, 2.0e-3, 4.0e-2, 5.3e-2, 5.3e-2; an H200 has
4.8e-2 for outliers among 32760 tokens."""


def data(kind: str, length: int = 1030, device: str = "cpu"):
    """Returns bf16 q, k, v (1, L, 2, 128) that are hard to round in one way or another."""
    q, k, v = sample(length, 2, device)
    generator = torch.Generator().manual_seed(1)
    means = torch.randn(2, 128, generator=generator).to(q)
    if kind == "means":
        k, v = k + 8 * means[0], v + 2 * means[1]
    if kind == "outliers":
        q, k, v = (torch.randn_like(x) for x in (q, k, v))
        q[..., :2], k[..., :2] = 2.4 * q[..., :2], 8 * k[..., :2]
        q[..., 2:] *= 0.3
    size = {"small": 2.0**-20, "large": 2.0**20}.get(kind, 1.0)
    return q / size, k * size, v * size


def unprepared(q, k, v):
    """Plain casts, with which the kernel's scales are one."""
    ones = torch.ones(q.shape[0], q.shape[2])
    parts = (x.to(torch.float8_e4m3fn) for x in (q, k, v))
    return fakes.flash_fp8(*parts, q_descale=ones, k_descale=ones, v_descale=ones)


def prepared(q, k, v):
    modules = {"fa3_fwd_interface": SimpleNamespace(flash_attn_func=fakes.flash_fp8)}
    return BACKEND.function(fakes.platform(modules))(q, k, v)


def error(attend, qkv) -> float:
    return rms_error(checked(attend(*qkv)), exact(*qkv))


@pytest.mark.parametrize(
    ("kind", "limit", "gain"),
    [
        ("plain", 4.7e-2, 1.05),
        ("means", 2.5e-3, 2.0),
        ("outliers", 4e-2, 3.5),
        ("small", 4.7e-2, 5.0),
        ("large", 4.7e-2, 5.0),
    ],
)
def test_what_the_preparation_gains(kind, limit, gain):
    torch.manual_seed(0)
    qkv = data(kind)
    assert error(prepared, qkv) < limit
    # Before PyTorch 2.8, a cast of what is too large gives NaN.
    assert not error(unprepared, qkv) <= gain * error(prepared, qkv)


def test_arguments_stay_as_they_are_and_samples_are_apart(monkeypatch):
    monkeypatch.setattr(flash_attn_3_fp8, "RUN_TOKENS", 256)
    q, k, v = (torch.cat(pair) for pair in zip(data("plain"), data("means"), strict=True))
    before = [x.clone() for x in (q, k, v)]
    out = prepared(q, k, v)
    assert out.dtype == torch.bfloat16
    assert all(torch.equal(a, b) for a, b in zip((q, k, v), before, strict=True))
    for i, kind in enumerate(("plain", "means")):
        torch.testing.assert_close(out[i : i + 1], prepared(*data(kind)), rtol=0, atol=1e-2)


def test_the_mean_of_v_survives_exactly():
    # With equal weights the output is the mean.
    q, k, v = data("plain")
    out = prepared(torch.zeros_like(q), k, v + 1)
    expected = (v + 1).double().mean(dim=1, keepdim=True).expand_as(out)
    # Rounded to bf16, of which kinds of CPU sum up otherwise; fp8 alone would be 2**-4.
    torch.testing.assert_close(out.double(), expected, rtol=2**-7, atol=0)


def test_zeros_and_broken_numbers():
    q, k, v = (torch.zeros_like(x) for x in data("plain"))
    assert not prepared(q, k, v).any()
    for position in range(3):
        for value in (float("nan"), float("inf")):
            qkv = list(data("plain"))
            qkv[position] = qkv[position].clone()
            qkv[position][0, 5, 0, 3] = value
            assert not prepared(*qkv)[0, 5, 0].isfinite().all(), "It would hide a fault."


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 447.0, 1e30])
def test_scales_are_powers_of_two_and_leave_no_overflow(size):
    x = torch.full((1, 3, 1, 64), size).bfloat16()
    x[0, 1] *= -1
    for rotation in (None, hadamard(64, x)):
        x8, scale, _ = PLAIN.to_fp8(x, centred=False, rotation=rotation)
        assert x8.float().isfinite().all()
        assert scale.log2().item() == scale.log2().round().item()
        expected = x if rotation is None else x @ rotation
        torch.testing.assert_close(x8.float() * scale, expected.float(), rtol=2**-4, atol=0)
        assert FP8_MAX / 4 < x8.float().abs().max() <= FP8_MAX


@pytest.mark.parametrize("size", [64, 128, 256])
def test_rotation(size):
    signs = hadamard(size, torch.empty(0))
    assert torch.equal(signs @ signs.T, size * torch.eye(size))


def test_where_it_runs():
    for capability in ((8, 9), (12, 0)):
        with pytest.raises(UnavailableError, match="compute capability"):
            BACKEND.function(fakes.platform({}, capability))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="No CUDA device.")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1030, 32_760])
def test_the_kernel(kind, length):
    if reason := BACKEND.unavailable_reason(Platform.current()):
        pytest.skip(reason)
    torch.manual_seed(0)
    q, k, v = data(kind, length, "cuda")
    with torch.inference_mode():
        out = BACKEND.function(Platform.current())(q, k, v)
    assert rms_error(checked(out), exact(q, k, v)) < BOUND[kind]
