"""Kernels that are missing, wrong or right."""

import logging
import math

import pytest

from wan_model.kernel_trial import triton_kernels_if_right


def choose(error: float) -> str:
    return triton_kernels_if_right(lambda: "fast", "plain", lambda _: error, 0.1, "Something")


def test_right_numbers_are_taken():
    assert choose(0.09) == "fast"


@pytest.mark.parametrize("error", [0.1, math.inf, math.nan])
def test_wrong_numbers_are_not_and_it_is_said(error: float, caplog: pytest.LogCaptureFixture):
    assert choose(error) == "plain"
    assert "Something: done without Triton, which computes wrong numbers" in caplog.text


def test_what_fails_is_left_alone(caplog: pytest.LogCaptureFixture):
    def fail(*_: str) -> float:
        raise AssertionError("no C compiler")

    caplog.set_level(logging.WARNING)
    assert triton_kernels_if_right(fail, 1.0, lambda _: 0.0, 0.1, "Something") == 1
    assert triton_kernels_if_right(lambda: "fast", "plain", fail, 0.1, "Something") == "plain"
    assert not caplog.records
