"""Small files that several programs write at once: whole, or as they were."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from wan_model.whole_file import write_whole


def test_writers_at_once_leave_one_whole_file(tmp_path: Path):
    file = tmp_path / "new" / "times.json"
    contents = [bytes([number]) * (1 << 20) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(partial(write_whole, file), contents * 4))
    assert file.read_bytes() in contents
    assert list(file.parent.iterdir()) == [file]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path):
    file = tmp_path / "times.json"
    file.mkdir()
    (file / "before").touch()
    with pytest.raises(OSError, match=r"times\.json"):
        write_whole(file, b"after")
    assert list(tmp_path.iterdir()) == [file]
