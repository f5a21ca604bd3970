"""Writes the tables of RESULTS.md, and plots, from what the benchmarks printed.

    python benchmarks/report.py             # benchmarks/results/*.jsonl -> RESULTS.md, plots/
    python benchmarks/report.py --line      # one line to paste into an issue
    python benchmarks/forward.py a14b 832x480x81 --layers 10 | python benchmarks/report.py --line -
    python benchmarks/attention.py | python benchmarks/report.py --show -       # only print tables

A table lies between `<!-- table:NAME -->` and `<!-- /table -->`; what is around it stays. Of what
was measured several times on a machine the last run is shown. Plots need matplotlib.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.lines import Line, LineError, parse_lines, read_lines
from benchmarks.markdown import ReportError, headline, places, rewrite, tables
from benchmarks.plots import plot

FOLDER = Path(__file__).parent


def collect(names: Sequence[str]) -> list[Line]:
    """Returns the lines of the files, "-" for stdin, in the order in which they were measured.

    Raises:
        LineError: if there are none, or one is no measurement.
    """
    lines = [line for name in names if name != "-" for line in read_lines(Path(name))]
    if "-" in names:
        lines += parse_lines(sys.stdin, "stdin")
    if not lines:
        raise LineError(
            f"There are no measurements. Got {', '.join(names) or 'no files'}, need what a "
            "benchmark prints. Run: "
            "python benchmarks/forward.py a14b 832x480x81 >> benchmarks/results/forward.jsonl"
        )
    return sorted(lines, key=lambda line: line["date"])


def report(lines: Sequence[Line], results: Path, plots: Path) -> str:
    """Rewrites `results` and draws the plots into `plots`, and returns what happened."""
    text = results.read_text(encoding="utf-8")
    new = tables(lines)
    results.write_text(rewrite(text, new), encoding="utf-8")
    present = places(text)
    told = [f"{results.name}: {', '.join(name for name in new if name in present) or 'no table'}"]
    told += [
        f"There is no place for the table {name}. Add <!-- table:{name} --> and <!-- /table -->."
        for name in new
        if name not in present
    ]
    try:
        told += [f"plots: {path.name}" for path in plot(lines, plots)]
    except ImportError as error:
        told.append(f"There are no plots ({error}). Install matplotlib to draw them.")
    return "\n".join(told)


def main() -> None:
    """Command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("files", nargs="*", help="JSON lines, - for stdin; all of results/ if none")
    parser.add_argument("--line", action="store_true", help="only print one line for an issue")
    parser.add_argument("--show", action="store_true", help="only print the tables")
    parser.add_argument("--results", type=Path, default=FOLDER / "RESULTS.md")
    parser.add_argument("--plots", type=Path, default=FOLDER / "plots", help="folder")
    options = parser.parse_args()
    files = options.files or sorted(map(str, FOLDER.glob("results/*.jsonl")))
    try:
        lines = collect(files)
        if options.line:
            told = headline(lines)
        elif options.show:
            told = "\n".join(tables(lines).values())
        else:
            told = report(lines, options.results, options.plots)
    except (LineError, ReportError, OSError) as error:
        sys.exit(f"{Path(__file__).name}: {error}")
    sys.stdout.write(f"{told}\n")


if __name__ == "__main__":
    main()
