"""Rotary position embedding: width per axis, relative positions, order of pairs."""

import pytest
import torch

from wan_model.dit.rope import axis_widths, rotate, rotation

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("head_dim", "widths"),
    [(128, (44, 42, 42)), (64, (24, 20, 20)), (24, (8, 8, 8)), (16, (8, 4, 4)), (4, (4, 0, 0))],
)
def test_time_gets_what_height_and_width_leave(head_dim, widths):
    assert axis_widths(head_dim) == widths
    assert rotation((2, 2, 3), head_dim, CPU).cos.shape == (12, 1, head_dim // 2)


def test_angles_of_every_axis():
    # In float64 from the definition: position * 10000^(-2i / width of the axis).
    grid, head_dim = (3, 4, 5), 128
    angles = rotation(grid, head_dim, CPU)
    token = 0
    for place in torch.cartesian_prod(*(torch.arange(size) for size in grid)).tolist():
        expected = []
        for position, width in zip(place, (44, 42, 42), strict=True):
            expected += [position * 10000 ** (-2 * i / width) for i in range(width // 2)]
        exact = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(angles.cos[token, 0], exact.cos().float(), rtol=0, atol=1e-7)
        torch.testing.assert_close(angles.sin[token, 0], exact.sin().float(), rtol=0, atol=1e-7)
        token += 1
    assert token == len(angles.cos)


def test_neighbouring_values_are_rotated_together():
    x = torch.randn(2, 6, 3, 16, generator=torch.Generator().manual_seed(0))
    angles = rotation((1, 2, 3), 16, CPU)
    as_complex = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    expected = torch.view_as_real(as_complex * torch.complex(angles.cos, angles.sin)).flatten(-2)
    torch.testing.assert_close(rotate(x, angles), expected)


def test_scores_depend_on_the_difference_of_places_only():
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 128, generator=generator)
    grid = (4, 5, 6)
    tokens = torch.cartesian_prod(*(torch.arange(size) for size in grid))
    angles = rotation(grid, 128, CPU)
    q = rotate(query.expand(1, len(tokens), 1, 128), angles)[0, :, 0]
    k = rotate(key.expand(1, len(tokens), 1, 128), angles)[0, :, 0]
    by_difference: dict[tuple[int, ...], float] = {}
    for i in range(0, len(tokens), 7):
        for j in range(0, len(tokens), 5):
            difference = tuple((tokens[i] - tokens[j]).tolist())
            score = (q[i] @ k[j]).item()
            assert score == pytest.approx(by_difference.setdefault(difference, score), abs=1e-4)
    spread = max(by_difference.values()) - min(by_difference.values())
    assert spread > 1


def test_a_run_has_the_angles_of_its_tokens():
    angles = rotation((2, 3, 4), 24, CPU)
    part = angles.at(slice(5, 11))
    assert torch.equal(part.cos, angles.cos[5:11])
    assert torch.equal(part.sin, angles.sin[5:11])
