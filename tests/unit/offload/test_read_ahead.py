"""Weight files that the system is asked to read before they are needed."""

import os
import threading
from pathlib import Path

import pytest

from wan_model.offload import ReadAhead
from wan_model.offload.read_ahead import CHUNK_BYTES

pytestmark = pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="Needs posix_fadvise.")

SIZE = 2 * CHUNK_BYTES + 5
HANGS = 300
"""Seconds that only what hangs takes."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Records what the system is asked to read."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _, start, size, __: asked.append((start, size)))
    return asked


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / name for name in ("high", "low")]
    for path in paths:
        with path.open("wb") as file:
            file.truncate(SIZE)
    return paths


WHOLE = [(0, CHUNK_BYTES), (CHUNK_BYTES, CHUNK_BYTES), (2 * CHUNK_BYTES, 5)]


def test_whole_files_are_read_in_order(files, asked):
    assert ReadAhead(files, 1 << 40).wait(HANGS)
    assert asked == WHOLE * 2


def test_no_more_is_read_than_there_is_room_for(files, asked):
    assert ReadAhead(files, SIZE + 3).wait(HANGS)
    assert asked == [*WHOLE, (0, 3)]
    asked.clear()
    assert ReadAhead(files, -1).wait(HANGS)
    assert asked == []


def test_an_interrupt_or_a_stop_ends_it(files, asked):
    assert ReadAhead(files, 1 << 40, interrupted=lambda: len(asked) == 1).wait(HANGS)
    assert len(asked) == 1
    asked.clear()
    reached, go = threading.Event(), threading.Event()

    def wait() -> bool:
        reached.set()
        return not go.wait(HANGS)

    ahead = ReadAhead(files, 1 << 40, interrupted=wait)
    assert reached.wait(HANGS)
    ahead.stop()
    go.set()
    assert ahead.wait(HANGS)
    assert len(asked) == 1


def test_it_ends_when_nobody_holds_it_any_more(files, asked):
    reached, go = threading.Event(), threading.Event()

    def wait() -> bool:
        reached.set()
        return not go.wait(HANGS)

    before = set(threading.enumerate())  # other tests' may not have ended
    ahead = ReadAhead(files, 1 << 40, interrupted=wait)
    (thread,) = (one for one in set(threading.enumerate()) - before if one.name == "wan-read-ahead")
    assert reached.wait(HANGS)
    del ahead
    go.set()
    thread.join(HANGS)
    assert len(asked) == 1


def test_a_file_that_is_gone_is_somebody_elses_matter(files, asked):
    files[0].unlink()
    assert ReadAhead(files, 1 << 40).wait(HANGS)
    assert asked == WHOLE
