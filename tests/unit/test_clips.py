"""Streams of frames are joined where they repeat each other; loops close."""

import pytest
import torch

from wan_model.clips import drop_first, splice, with_warm_up


def stream(values: torch.Tensor, size: int):
    """Grey frames (n, 2, 2, 3), a few at a time, with a pattern of mean 0."""
    pattern = torch.tensor([-0.02, 0.02, 0.02, -0.02]).view(1, 2, 2, 1)
    return iter((values.view(-1, 1, 1, 1) + pattern).expand(-1, -1, -1, 3).split(size))


@pytest.mark.parametrize(
    ("overlap", "crossfade", "match", "expected"),
    [
        (0, False, False, [0.1, 0.2, 0.3, 0.5, 0.6, 0.7]),
        (1, False, False, [0.1, 0.2, 0.3, 0.6, 0.7]),
        (2, False, False, [0.1, 0.2, 0.3, 0.7]),
        (1, True, False, [0.1, 0.2, 0.4, 0.6, 0.7]),
        (0, False, True, [0.1, 0.2, 0.3, 0.3, 0.4, 0.5]),
        (1, False, True, [0.1, 0.2, 0.3, 0.4, 0.5]),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_streams_are_joined(overlap: int, crossfade: bool, match: bool, expected, size: int):
    first, second = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    parts = [stream(first, size), stream(second, size)]
    made = torch.cat([*splice(parts, [overlap], crossfade=crossfade, match_colours=match)])
    torch.testing.assert_close(made.mean((1, 2, 3)), torch.tensor(expected))


def test_each_stream_has_an_overlap_of_its_own():
    parts = [stream(torch.tensor(values), 2) for values in ([0.1, 0.2], [0.2, 0.3], [0.5, 0.6])]
    made = torch.cat([*splice(parts, [1, 0], crossfade=False, match_colours=False)])
    torch.testing.assert_close(made.mean((1, 2, 3)), torch.tensor([0.1, 0.2, 0.3, 0.5, 0.6]))


def test_a_joined_stream_is_never_held_whole():
    given, longest = 0, 0

    def frames():
        nonlocal given
        for _ in range(50):
            given += 4
            yield torch.zeros(4, 2, 2, 3)

    taken = 0
    joined = splice([frames(), frames()], [5], crossfade=True, match_colours=True)
    for part in joined:
        taken += len(part)
        longest = max(longest, given - taken)
    assert taken == 2 * 200 - 5
    assert longest <= 5 + 4 + 5


def test_a_loop_is_decoded_from_its_end_on():
    longer, drop = with_warm_up(torch.arange(6).view(1, 1, 6, 1, 1))
    assert longer.flatten().tolist() == [2, 3, 4, 5, 0, 1, 2, 3, 4, 5]
    frames = 4 * longer.shape[2] - 3
    kept = torch.cat([*drop_first(iter(torch.arange(frames).split(4)), drop)])
    assert kept.tolist() == list(range(13, 37))
    assert len(kept) == 4 * 6
