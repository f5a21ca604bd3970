"""What faults of a distributed model happen to, and the lines of what fails."""

import json
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.markdown import tables

from .conftest import import_script

distribute = import_script("distribute")
OPTIONS = {"toy": True, "precision": "auto", "attention": "auto", "gpus": 2}


class Running:
    """In place of a server: this process."""

    pid = os.getpid()

    def interrupt(self) -> None:
        """Nothing runs."""


class Bench(distribute.Bench):
    """Some modes fail, and faults are noted instead of done."""

    def __init__(self, *failing: str, computes: bool = True):
        super().__init__(Running(), Namespace(**OPTIONS), (Path(), Path()), "64x48x5", [])
        self.failing, self.computes = failing, computes
        self.struck: list[tuple[str, tuple[str, float]]] = []

    def measure(self, mode: str, cfg: float) -> None:
        if mode in self.failing:
            raise distribute.ServerError(f"Not {mode} today.\nNor at {cfg}.")

    def workers(self) -> list[int]:
        return [1] * self.computes

    def faults(self) -> None:
        self.struck.append(("faults", self.last))

    def kill_server(self) -> None:
        self.struck.append(("killed", self.last))


def played(bench: Bench, capsys: pytest.CaptureFixture[str], *modes: str) -> list[dict[str, Any]]:
    distribute.play(bench, modes)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_faults_happen_to_the_mode_before_them(capsys: pytest.CaptureFixture[str]):
    bench = Bench()
    assert played(bench, capsys, "auto", "faults", "cfg", "killed") == []
    assert bench.struck == [("faults", ("auto", 1.0)), ("killed", ("cfg", 2.0))]


@pytest.mark.parametrize(
    ("modes", "computes", "said"),
    [
        (["faults"], True, "No mode ran before it. Name one, such as auto."),
        (["auto", "layers", "faults"], True, "No mode ran before it. Name one, such as auto."),
        (["auto", "killed"], False, "No process computes."),
    ],
)
def test_without_a_mode_that_ran_faults_fail(
    capsys: pytest.CaptureFixture[str], modes: list[str], computes: bool, said: str
):
    bench = Bench("layers", computes=computes)
    *failed, fault = played(bench, capsys, *modes)
    assert [line["failed"] for line in failed] == ["Not layers today."] * ("layers" in modes)
    assert bench.struck == []
    assert (fault["table"], fault["fault"]) == ("distribute_fault", modes[-1])
    assert (fault["status"], fault["said"]) == ("failed", said)
    mode = "auto" if not computes else "none"
    shown = f"| {modes[-1]} | {mode} | failed: {said.partition('.')[0]}"
    assert shown in tables([fault])["distribute_fault"]
