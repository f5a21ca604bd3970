import json
from pathlib import Path

import pytest

from benchmarks.lines import ABOUT_RUN, LineError, emit, read_lines

from .measured import forward, write


def test_what_is_printed_can_be_read(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    emit("linear", {"format": "fp8", "ms": 1.5})
    emit("linear", {"format": "bf16", "ms": 2.5})
    path = tmp_path / "linear.jsonl"
    path.write_text(capsys.readouterr().out + "\n", encoding="utf-8")

    first, second = read_lines(path)

    assert (first["table"], first["format"], first["ms"]) == ("linear", "fp8", 1.5)
    assert set(first) == {"table", "format", "ms", *ABOUT_RUN}
    assert first["run"] == second["run"]
    assert first["versions"]["torch"]
    assert first["machine"]["name"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{'table': 1}", "not JSON"),
        ("[]", "a list"),
        (json.dumps({"seconds": 1, "date": "2026-11-23"}), "without table, run, commit, command"),
    ],
)
def test_a_corrupt_line_is_named(text: str, reason: str, tmp_path: Path):
    path = write(tmp_path / "forward.jsonl", forward("wan-duet", 1.0))
    path.write_text(f"{path.read_text()}\n{text}\n")

    with pytest.raises(LineError, match=rf"forward\.jsonl, line 3.*{reason}.*Remove it"):
        read_lines(path)
