import importlib.util
import subprocess
import sys
from pathlib import Path

from .conftest import REPOSITORY
from .measured import forward, write

TEXT = "Prose.\n\n<!-- table:forward -->\n<!-- /table -->\n\nMore prose.\n"


def report(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, REPOSITORY / "benchmarks" / "report.py", *arguments]
    return subprocess.run(
        [str(part) for part in command], input=stdin, capture_output=True, text=True, check=False
    )


def test_tables_and_plots_are_written(tmp_path: Path):
    results, plots = tmp_path / "RESULTS.md", tmp_path / "plots"
    results.write_text(TEXT, encoding="utf-8")
    lines = [forward("wan-duet", 3.0), forward("comfyui", 4.0)]
    other = {**forward("wan-duet", 1.0), "table": "linear"}
    files = write(tmp_path / "a.jsonl", *lines), write(tmp_path / "b.jsonl", other)

    done = report(*files, "--results", results, "--plots", plots)

    text = results.read_text(encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert text.startswith("Prose.\n\n<!-- table:forward -->\nNVIDIA H100")
    assert text.endswith("|\n<!-- /table -->\n\nMore prose.\n")
    assert "There is no place for the table linear" in done.stdout
    if importlib.util.find_spec("matplotlib"):
        assert (plots / "forward.png").stat().st_size > 10_000
    else:
        assert "Install matplotlib" in done.stdout


def test_a_line_from_stdin_and_a_corrupt_file(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", forward("wan-duet", 3.0))

    line = report("--line", "-", stdin=path.read_text(encoding="utf-8"))
    path.write_text("Traceback (most recent call last):\n", encoding="utf-8")
    corrupt = report(path, "--results", tmp_path / "absent.md")

    assert line.stdout.startswith("NVIDIA H100 80GB HBM3 79 GiB | wan-duet 83b72d0 | python")
    assert line.stdout.endswith("| A14B 832x480x81 bf16 (sdpa) 3.00 s\n")
    assert corrupt.returncode == 1
    assert "report.py: a.jsonl, line 1, is no measurement" in corrupt.stderr


def test_results_are_what_the_report_writes_of_all_that_is_kept(tmp_path: Path):
    kept = REPOSITORY / "benchmarks" / "RESULTS.md"
    written = tmp_path / "RESULTS.md"
    written.write_bytes(kept.read_bytes())

    done = report("--results", written, "--plots", tmp_path / "plots")

    assert "There is no place" not in done.stdout
    assert written.read_text(encoding="utf-8") == kept.read_text(encoding="utf-8")
