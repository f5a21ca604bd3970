"""The cases shared with the JavaScript schedule are what Python computes today."""

import json

from tests.data.make_schedule_cases import PATH, make_text


def test_file_is_up_to_date() -> None:
    assert json.loads(PATH.read_text(encoding="utf-8")) == json.loads(make_text())


def test_cases_are_consistent_and_varied() -> None:
    cases = json.loads(PATH.read_text(encoding="utf-8"))
    assert len(cases) >= 60
    for case in cases:
        assert case["high"] + case["low"] == len(case["timesteps"])
        assert len(case["timesteps"]) == max(0, len(case["sigmas"]) - 1)
    assert {case["solver"] for case in cases} == {"unipc", "dpm++", "euler"}
    assert any(not case["sigmas"] for case in cases)
    assert any(case["sigmas"] and case["sigmas"][-1] > 0 for case in cases)
