"""What is said of many clips."""

import pytest
import torch

from tools.tiny_score import Score
from tools.tiny_score.quality import Generated
from tools.train_tiny.scenes import Prompt

from .conftest import import_script

PROMPTS = tuple(Prompt(f"a red {shape} rests", "red", shape, "still") for shape in ("star", "ring"))


def clips(*shapes_ok: bool) -> Generated:
    """Returns a clip of each prompt, in which only the shape may be wrong."""
    scores = tuple(Score(True, ok, True, True) for ok in shapes_ok)
    return Generated(PROMPTS[: len(scores)], torch.empty(0), scores, (), 1.0)


def test_seeds_of_a_prompt_count_as_one_for_the_error():
    columns = import_script("quality")._clip_columns([clips(False, True)] * 8, [])
    assert columns["shape"] == 0.5
    assert columns["shape_error"] == columns["all_right_error"] == pytest.approx(0.5)
    assert columns["colour_error"] == 0
    assert (columns["star_shape"], columns["ring_shape"]) == (0, 1)


def test_one_prompt_has_no_error():
    columns = import_script("quality")._clip_columns([clips(False), clips(True)], [])
    assert columns["shape"] == 0.5
    assert "shape_error" not in columns
