"""What is reused, and the error that counts, by hand."""

import math

import pytest
import torch
from torch import Tensor

from wan_model.sampling.step_cache.reuse import DeltaReuse, ResidualTrack, StepReuse


def at(value: float) -> Tensor:
    """A tensor that is the same value everywhere."""
    return torch.full((1, 1, 2, 2), value)


class Constant:
    """An estimate that always expects the same error."""

    def __init__(self, error: float) -> None:
        self.error = error

    def observe(self, x: Tensor, value: Tensor, sigma: float) -> None:
        """Learns nothing."""

    def advance(self, x: Tensor, sigma: float) -> float:  # noqa: ARG002
        """Returns the error."""
        return self.error


def test_reuse_follows_the_sample() -> None:
    track = ResidualTrack(Constant(0.0))
    track.observe(at(2.0), at(5.0), 1.0)
    assert track.reuse(at(2.5)).equal(at(5.5))


def test_the_larger_error_counts() -> None:
    """The estimate's, or what reuse was off by, for as long a way of the sample."""
    careless, careful = ResidualTrack(Constant(0.01)), ResidualTrack(Constant(0.7))
    for track in (careless, careful):
        assert track.error(at(0.0), 1.0) == math.inf
        track.observe(at(0.0), at(4.0), 1.0)
        track.observe(at(2.0), at(5.0), 0.9)  # reuse gives 6: off by 1 of 5 on a way of 2
    assert careless.error(at(3.0), 0.8) == pytest.approx(0.1)
    assert careful.error(at(3.0), 0.8) == pytest.approx(0.7)


def test_error_of_a_reused_step_is_seen_afterwards() -> None:
    track = ResidualTrack(Constant(0.0))
    assert track.observe(at(0.0), at(4.0), 1.0) == 0
    assert track.observe(at(2.0), at(6.0), 0.9) == 0
    track.reuse(at(3.0))
    # Computed at 4, reuse would have given 8 for 10: 0.2 on a way of 2, so 0.1 on the way of 1.
    assert track.observe(at(4.0), at(10.0), 0.8) == pytest.approx(0.1)
    assert track.observe(at(5.0), at(10.0), 0.7) == 0


def test_one_prompt_that_changes_keeps_all_from_being_reused() -> None:
    errors = iter([0.01, 0.5, 0.5, 0.01])
    for _ in range(2):
        reuse = StepReuse(lambda: Constant(next(errors)), threshold=0.1, max_in_a_row=9)
        assert reuse.reuse(at(0.0), 1.0) is None
        reuse.observe(at(0.0), [at(1.0), at(2.0)], 1.0)
        assert reuse.reuse(at(0.0), 1.0) is None

    reuse = StepReuse(lambda: Constant(0.01), threshold=0.1, max_in_a_row=9)
    reuse.observe(at(0.0), [at(1.0), at(2.0)], 1.0)
    reused = reuse.reuse(at(0.5), 0.9)
    assert reused is not None
    assert [velocity.equal(at(v)) for velocity, v in zip(reused, (1.5, 2.5), strict=True)]


@pytest.mark.parametrize(("scale", "weight"), [(5.0, 4.0), (1.5, 1.0)])
def test_guidance_counts_as_much_as_it_weighs(scale: float, weight: float) -> None:
    """Below the threshold by a hair it is reused, above it is not."""
    # From x = 0 to 1 the difference goes from 1 to 1.1, so to x = 1.5 by another 0.05.
    guided = 2.0 + scale * 1.1
    error = weight * 0.05 / guided
    for factor, expected in ((1.01, True), (0.99, False)):
        reuse = DeltaReuse(scale, threshold=error * factor, max_in_a_row=9)
        assert reuse.reuse(at(0.0), 1.0) is None
        reuse.observe(at(0.0), at(3.0), at(2.0), 1.0)
        reuse.observe(at(1.0), at(3.1), at(2.0), 0.9)
        delta = reuse.reuse(at(1.5), 0.8)
        assert (delta is not None) == expected
        if delta is not None:
            assert torch.allclose(delta, at(1.1))


def test_prompts_without_any_difference() -> None:
    reuse = DeltaReuse(4.0, threshold=0.05, max_in_a_row=9)
    for x, sigma in ((0.0, 1.0), (1.0, 0.9)):
        reuse.observe(at(x), at(3.0), at(3.0), sigma)
    assert reuse.reuse(at(1.5), 0.8) is not None
