"""What the demo says before anything runs: its options, and words that the toy does not know."""

import os
import subprocess
import sys

import pytest

from tests.comfy.server import REPOSITORY
from tools.tiny_vocabulary import advice, unknown_words
from tools.train_tiny.scenes import Stream, caption, sample_scene


def dev(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", str(REPOSITORY / "dev.py"), *arguments]  # no packages
    environment = os.environ | {"COLUMNS": "100"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_help_shows_the_demos_options():
    shown = dev("demo", "--help").stdout

    assert all(
        option in shown for option in ("--prompt", "--image", "--seed", "--fast", "--output")
    )
    assert "--seed" not in dev("--help").stdout


def test_a_wrong_option_is_refused_before_installing():
    refused = dev("demo", "--sed", "3")

    assert refused.returncode == 2
    assert "unrecognized arguments: --sed 3" in refused.stderr


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("A red ball rolls to the left, quickly!", []),
        ("a cat walks on a grey background, a cat", ["cat", "walks"]),
        ("ein roter Kreis", ["ein", "roter", "kreis"]),
        ("", []),
    ],
)
def test_unknown_words(prompt: str, unknown: list[str]):
    assert unknown_words(prompt) == unknown
    assert bool(unknown) == ("shapes: circle, square, triangle, star, ring" in advice(prompt))


def test_captions_of_the_training_have_no_unknown_words():
    for number in range(150):
        text = caption(sample_scene(1, number), Stream(number, "caption"))
        assert unknown_words(text) == [], text
