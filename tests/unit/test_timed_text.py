"""Prompts over time: what people write, and which frames get how much of each."""

import math
import time

import pytest

from wan_model.errors import SettingsError
from wan_model.timed_text import TimedText, parse_timed_text, weights_of_frames

TEXTS = [
    ("a cat", [("a cat", 0, math.inf)]),
    ("0-40: a cat\n41-80: a dog", [("a cat", 0, 41), ("a dog", 41, 81)]),
    (
        "Soft light.\n0-2s: a cat\nsits\n2 - 3.5 s : a dog\n3.5s\u2013: a cow",
        [
            ("Soft light.\na cat\nsits", 0, 32),
            ("Soft light.\na dog", 32, 56),
            ("Soft light.\na cow", 56, math.inf),
        ],
    ),
    ("0-2S\uff1a\u732b", [("\u732b", 0, 32)]),
    ("10f-2s: a cat", [("a cat", 10, 32)]),
    ("At 9:30, a 2-door car: red", [("At 9:30, a 2-door car: red", 0, math.inf)]),
]


@pytest.mark.parametrize(("text", "expected"), TEXTS)
def test_ranges(text: str, expected: list[tuple[str, float, float]]):
    assert parse_timed_text(text, 16.0) == tuple(TimedText(*one) for one in expected)


@pytest.mark.parametrize(
    "text", ["40-20: a cat", "2-2s: a cat", "0-8:\n9-16: a dog", "0-8: \n", "0:00-0:02: a"]
)
def test_empty_ranges_are_refused(text: str):
    with pytest.raises(SettingsError, match=r"Got '\d"):
        parse_timed_text(text, 16.0)


@pytest.mark.parametrize("line", ["1{}", "1{}x", "1s{}", "1-{}x", "1-2{}x", "1-2s{}x", "{}1-"])
@pytest.mark.parametrize("many", [" ", "1", ".", ":", "-", "\u3000"])
def test_long_lines_take_no_time(line: str, many: str):
    """Nor long messages. The server stands still while a line is read."""
    before, said = time.thread_time(), ""
    try:
        parse_timed_text(line.format(many * 100_000), 16.0)
    except SettingsError as error:
        said = str(error)
    assert time.thread_time() - before < 5
    assert len(said) < 300


def dense(texts, frames, transition):
    """Ramps sampled at the middle of each frame of the video, one number at a time."""
    rows = []
    for latent in range(frames):
        covered = [0] if latent == 0 else [4 * latent - 3 + i for i in range(4)]
        row = []
        for text in texts:
            total = 0.0
            for frame in covered:
                rise = (frame + 0.5 - (text.start - transition / 2)) / transition
                fall = ((text.end + transition / 2) - (frame + 0.5)) / transition
                total += max(0.0, min(1.0, rise)) * max(0.0, min(1.0, fall))
            row.append(total)
        rows.append([part / sum(row) for part in row])
    return rows


@pytest.mark.parametrize("transition", [1e-6, 3, 8, 40])
def test_borders_are_ramps(transition: float):
    texts = parse_timed_text("0-7: a\n8-20: b\n15-: c", 16.0)
    got = weights_of_frames(texts, range(9), transition)
    assert got == [pytest.approx(row) for row in dense(texts, 9, transition)]
    assert all(sum(row) == pytest.approx(1) for row in got)


def test_cuts_gaps_and_windows():
    texts = parse_timed_text("1-4: a\n9-12: b", 16.0)
    got = weights_of_frames(texts, range(6), 0)
    a, b = [1.0, 0.0], [0.0, 1.0]
    assert got == [a, a, a, b, b, b]  # the nearest one where there is none; a tie is the first's
    assert weights_of_frames(texts, [3, 1], 0) == [b, a]
