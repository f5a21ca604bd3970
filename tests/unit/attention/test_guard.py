"""NaN and infinity are noticed, once, and only when asked for."""

import pytest
import torch

from wan_model.attention import FiniteGuard, fallback_message


def test_finite_values_pass():
    guard = FiniteGuard()
    assert guard.is_finite()
    guard.watch(torch.full((3, 4), 65504.0, dtype=torch.float16))
    guard.watch(torch.zeros(2))
    assert guard.is_finite()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_value_is_enough(bad, place):
    guard = FiniteGuard()
    for index in range(3):
        x = torch.ones(2, 5)
        x[1, 3] = bad if index == place else 1.0
        guard.watch(x)
    assert not guard.is_finite()
    assert guard.is_finite(), "It starts again after the answer."


def test_watching_asks_nothing_of_the_device():
    guard = FiniteGuard()
    guard.watch(torch.empty(4, device="meta"))  # a value read here would raise
    guard.watch(torch.empty(4, device="meta"))
    with pytest.raises(RuntimeError, match="meta"):
        guard.is_finite()


def test_the_message_names_backend_and_expert():
    message = fallback_message("sage", "the high-noise expert")
    assert "Got them from 'sage' in the high-noise expert, need finite ones." in message
