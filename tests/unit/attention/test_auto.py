"""The decision of "auto" as a table, and its memory."""

import json

import pytest

from wan_model.attention.auto import (
    MAX_ERROR,
    Choice,
    Measurement,
    choose,
    recall,
    remember,
)

SDPA = Measurement("sdpa", 10.0, 2.3e-3)
FASTER = Measurement("fa3", 8.0, 2.3e-3)
SLOWER = Measurement("efficient", 14.0, 2.2e-3)
INT8 = Measurement("int8", 4.0, 1.3e-2)
BROKEN = Measurement("broken", problem="failed a trial (RuntimeError)")


@pytest.mark.parametrize(
    ("measurements", "max_error", "name"),
    [
        ([SDPA], MAX_ERROR, "sdpa"),
        ([SDPA, FASTER], MAX_ERROR, "fa3"),
        ([FASTER, SDPA], MAX_ERROR, "fa3"),
        ([SDPA, SLOWER], MAX_ERROR, "sdpa"),
        ([SDPA, FASTER, INT8], MAX_ERROR, "fa3"),
        ([SDPA, INT8], MAX_ERROR, "sdpa"),
        ([SDPA, FASTER, INT8], 2e-2, "int8"),
        ([SDPA, BROKEN], MAX_ERROR, "sdpa"),
        ([FASTER, SLOWER], MAX_ERROR, "fa3"),
        ([INT8, BROKEN], MAX_ERROR, "sdpa"),
        ([], MAX_ERROR, "sdpa"),
        ([SDPA, Measurement("flash", 9.8, 2e-3)], MAX_ERROR, "sdpa"),  # noise
        ([SDPA, Measurement("flash", 9.6, 2e-3)], MAX_ERROR, "flash"),
        ([SDPA, Measurement("nan", 1.0, float("nan"))], MAX_ERROR, "sdpa"),
        ([SDPA, Measurement("edge", 1.0, MAX_ERROR)], MAX_ERROR, "edge"),
    ],
)
def test_choice(measurements, max_error, name):
    assert choose(measurements, max_error).name == name


def test_the_choice_says_why():
    assert choose([SDPA, FASTER, INT8]) == Choice(
        "fa3", "the fastest here, 8.0 ms with an error of 2.3e-03, where sdpa takes 10.0 ms"
    )
    assert choose([SDPA]).why == "the fastest here, 10.0 ms with an error of 2.3e-03"
    assert choose([INT8]).why == "nothing measured has an error of at most 0.005"


def test_measurements_are_remembered(tmp_path):
    path = tmp_path / "new" / "attention.json"
    assert recall(path, "gpu a") is None
    remember(path, "gpu a", [SDPA, BROKEN])
    remember(path, "gpu b", [FASTER])
    assert recall(path, "gpu a") == [SDPA, BROKEN]
    assert recall(path, "gpu b") == [FASTER]
    assert recall(path, "gpu c") is None
    assert [p.name for p in path.parent.iterdir()] == ["attention.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b'{"gpu": 3}',
        b'{"gpu": [3]}',
        b'{"gpu": "text"}',
        b'{"gpu": [{"name": "sdpa"}]}',
        b'{"gpu": [{"name": "sdpa", "milliseconds": "fast", "error": 0, "problem": null}]}',
        b'{"gpu": [{"name": "sdpa", "milliseconds": null, "error": 0, "problem": null}]}',
    ],
)
def test_a_damaged_file_is_ignored_and_rewritten(tmp_path, content):
    path = tmp_path / "attention.json"
    path.write_bytes(content)
    assert recall(path, "gpu") is None
    remember(path, "gpu", [SDPA])
    assert recall(path, "gpu") == [SDPA]
    assert list(json.loads(path.read_text())) == ["gpu"]


def test_a_file_that_cannot_be_written_is_no_error(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")
    remember(blocked / "attention.json", "gpu", [SDPA])
    assert "Could not remember" in caplog.text
    assert recall(blocked / "attention.json", "gpu") is None
