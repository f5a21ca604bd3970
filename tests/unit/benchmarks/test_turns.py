"""Contestants' turns, with processes that are none."""

from typing import Any

from benchmarks.timing import Timing
from benchmarks.turns import Contestant, ratios, take_turns
from wan_model.errors import BackendError


class Played:
    """Takes a process' place, and may fail from some turn on."""

    def __init__(self, name: str, played: list[str], lasts: int = 99) -> None:
        self.name, self.played, self.lasts = name, played, lasts

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.played.count(self.name) == self.lasts:
            raise BackendError("out of memory")
        self.played.append(self.name)
        return {"seconds": float(len(self.played)), "peak_bytes": request["bytes"]}


def test_turns_go_back_and_forth_and_who_fails_stops_nobody_else():
    played: list[str] = []
    a, b, c = (
        Contestant(name, Played(name, played, lasts), {"bytes": 7})  # pyright: ignore
        for name, lasts in (("a", 99), ("b", 99), ("c", 2))
    )

    take_turns([a, b, c], "x", {"bytes": 1}, turns=3)

    assert "".join(played) == "abc" + "abc" + "ba" + "ab"
    assert a.timings["x"].first_seconds == 1
    assert a.timings["x"].seconds == (4, 8, 9)
    assert (b.timings["x"].peak_bytes, c.failed) == (7, "out of memory")


def test_ratios_say_how_sure_they_are():
    ours, theirs = (
        Timing(9.0, seconds, peak, {}) for seconds, peak in (((1.0, 2.0, 3.0), 5), ((2.0, 5.0), 10))
    )

    assert ratios(ours, theirs) == {"ratio": 0.571, "ratio_error": 0.05, "peak_ratio": 0.5}
