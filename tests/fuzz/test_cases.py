"""The first cases of the fuzzer; `benchmarks/fuzz.py` runs as many as one likes."""

import sys
from pathlib import Path

import pytest

from tests.fuzz.cases import run_case
from tests.fuzz.watch import watched

CASES = 500


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_broken_files_are_used_or_refused(tmp_path: Path):
    found = [outcome for number in range(CASES) if (outcome := run_case(number, tmp_path)).found]
    assert not found
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_what_is_watched(tmp_path: Path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    for file in (inside / "a", outside):
        file.write_bytes(b"x")
    with watched(inside) as seen:
        (inside / "a").read_bytes()
    assert seen.outside == []
    assert seen.peak_bytes < 64 << 20
    with watched(inside) as seen:
        outside.read_bytes()
        (inside / "a").write_bytes(b"y")
        assert len(bytearray(b"z") * (100 << 20)) == 100 << 20
    assert len(seen.outside) == 2
    assert seen.peak_bytes > 90 << 20
