"""The estimates of EasyCache and MagCache, by hand."""

import math

import pytest
import torch

from wan_model.sampling.step_cache.estimates import EasyCacheEstimate, MagCacheEstimate


def at(value: float) -> torch.Tensor:
    """A sample that is the same value everywhere."""
    return torch.full((1, 1, 2, 2), value)


def test_easycache_adds_up_the_way_of_the_sample() -> None:
    estimate = EasyCacheEstimate()
    assert estimate.advance(at(0.0), 1.0) == math.inf
    estimate.observe(at(1.0), at(4.0), 1.0)
    assert estimate.advance(at(1.5), 0.9) == math.inf
    estimate.observe(at(3.0), at(5.0), 0.8)  # moved 1 while the sample moved 2, length 5

    assert estimate.advance(at(4.0), 0.7) == pytest.approx(0.5 * 1 / 5)
    assert estimate.advance(at(3.0), 0.6) == pytest.approx(0.5 * 2 / 5), "there and back is two"
    estimate.observe(at(2.0), at(5.0), 0.5)
    assert estimate.advance(at(9.0), 0.4) == 0


def test_magcache_adds_up_the_magnitudes() -> None:
    estimate = MagCacheEstimate()
    estimate.observe(at(0.0), at(1.0), 1.0)
    assert estimate.advance(at(0.0), 0.95) == math.inf
    estimate.observe(at(0.0), at(0.9), 0.9)  # a ratio of 0.9 for each 0.1 of sigma

    first, second = 1 - 0.9, 1 - 0.9**2
    assert estimate.advance(at(0.0), 0.8) == pytest.approx(first)
    assert estimate.advance(at(0.0), 0.7) == pytest.approx(first + second)
    estimate.observe(at(0.0), at(0.9), 0.6)
    assert estimate.advance(at(0.0), 0.5) == pytest.approx(0)


def test_two_calls_at_one_place_are_no_rate() -> None:
    """Second-order samplers call twice at one sigma; nothing divides by zero."""
    easy, mag = EasyCacheEstimate(), MagCacheEstimate()
    for estimate in (easy, mag):
        estimate.observe(at(1.0), at(2.0), 0.5)
        estimate.observe(at(1.0), at(3.0), 0.5)
        assert not estimate.advance(at(1.1), 0.4) < 1
