"""The trial's data and its yardstick, on the CPU."""

import pytest
import torch

from tests.unit.attention import fakes
from wan_model.attention import MAX_ERROR, kernel_timing
from wan_model.attention.auto import Measurement
from wan_model.attention.kernel_timing import checked, exact, rms_error, sample
from wan_model.attention.sage import INT8_ERROR


def int8(x, tokens):
    """Rounds to int8 with one scale per head and block of tokens, as sageattention does."""
    blocks = x.float().unflatten(1, (-1, tokens))
    scale = blocks.abs().amax(dim=(2, 4), keepdim=True) / 127
    return ((blocks / scale).round() * scale).flatten(1, 2)


def test_exact_is_exact():
    q, k, v = sample(300, 3, "cpu")
    expected = fakes.exact(q, k, v)
    assert exact(q, k, v).shape == checked(q).shape == (1, 150, 2, 128)
    torch.testing.assert_close(exact(q, k, v), checked(expected), rtol=0, atol=1e-12)


def test_the_data_is_the_same_and_has_outliers():
    q, k, v = sample(1024, 2, "cpu")
    again = sample(1024, 2, "cpu")
    assert all(torch.equal(a, b) for a, b in zip((q, k, v), again, strict=True))
    assert {x.dtype for x in (q, k, v)} == {torch.bfloat16}
    means = k.float().mean(dim=(0, 1, 2)).abs()
    assert means[:4].max() > 2
    assert means[4:].max() < 0.2
    scores = torch.einsum("blhd,bshd->bhls", q.float(), k.float() - k.float().mean(1)) / 128**0.5
    assert 0.8 < scores.std() < 1.3


def test_the_bound_lies_between_16_and_8_bit():
    q, k, v = sample(2048, 2, "cpu")
    expected = exact(q, k, v)
    rounded = fakes.exact(q, k, v).bfloat16()
    smooth = k.float() - k.float().mean(dim=1, keepdim=True)
    eight_bit = fakes.exact(int8(q, 128), int8(smooth, 64), v)
    assert 1e-3 < rms_error(checked(rounded), expected) < MAX_ERROR / 2
    assert rms_error(checked(eight_bit), expected) > 2 * MAX_ERROR
    assert rms_error(checked(eight_bit), expected) > INT8_ERROR


def test_relative_rms():
    expected = torch.tensor([3.0, 4.0]).double()
    assert rms_error(torch.tensor([3.0, 4.0]), expected) == 0
    assert rms_error(torch.tensor([3.0, 9.0]), expected) == pytest.approx(1.0)


@pytest.fixture
def timed(monkeypatch):
    """Times every call as 2 ms: the clock is the GPU's."""
    monkeypatch.setattr(kernel_timing, "milliseconds", lambda call: call() is None or 2.0)


def trial(function, before=None):
    qkv = sample(64, 2, "cpu")
    return kernel_timing._add(before or Measurement(""), "x", function, qkv, exact(*qkv))


@pytest.mark.usefixtures("timed")
def test_shapes_add_up():
    first = trial(lambda q, k, v: fakes.exact(q, k, v))
    assert (first.name, first.milliseconds, first.problem) == ("x", 2.0, None)
    assert first.error < 1e-12
    second = trial(lambda q, k, v: 1.01 * fakes.exact(q, k, v), first)
    assert (second.milliseconds, second.error) == (4.0, pytest.approx(0.01))
    third = trial(lambda q, k, v: fakes.exact(q, k, v), second)
    assert (third.milliseconds, third.error) == (6.0, pytest.approx(0.01))


@pytest.mark.usefixtures("timed")
def test_a_kernel_that_fails_is_out():
    def fails(*_):
        raise RuntimeError("no kernel image")

    def is_full(error: RuntimeError):
        def attend(*_):
            raise error

        return attend

    for error in (torch.OutOfMemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory")):
        with pytest.raises(torch.OutOfMemoryError):
            trial(is_full(error))
    failed = trial(fails)
    assert failed.problem == "failed a trial (RuntimeError)"
    assert trial(lambda q, k, v: fakes.exact(q, k, v), failed) is failed
    nan = trial(lambda q, k, v: fakes.exact(q, k, v) * float("nan"))
    assert nan.problem == "gave values that are not finite"
