"""Measurements as rows of tables: what belongs together, what replaces what, ratios to peers.

Lines that name no contestant are ours.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .lines import Line

OURS = "wan-duet"
NAMES = {
    "a14b": "A14B",
    "5b": "5B",
    "toy": "toy",
    "comfyui": "ComfyUI",
    "core": "ComfyUI",
    OURS: "WanDuet",
}
"""Of models and contestants, as people write them."""


@dataclass(frozen=True)
class Column:
    """One column; `text` makes of a row what is shown."""

    title: str
    text: Callable[["Row"], str]


@dataclass(frozen=True)
class Row:
    """One measurement, and ours of the same run and subject to compare it with."""

    line: Line
    ours: Line | None

    def number(self, key: str, form: str) -> str:
        """Returns a number of the line, formatted; nothing where it was not measured."""
        value = self.line.get(key)
        return "" if value is None else format(value, form)

    def name(self, key: str) -> str:
        """Returns a word of the line as people write it."""
        value = str(self.line.get(key, ""))
        return NAMES.get(value, value)

    def ratio(self, key: str) -> str:
        """Returns ours / this one; nothing for ours, and where either is missing."""
        found = None if self.ours is None or self.ours is self.line else ratio(self, key)
        return "" if found is None else f"{found:.2f}"


@dataclass(frozen=True)
class Layout:
    """How the lines of one table become rows."""

    subject: tuple[str, ...]
    """Keys that say what is measured: contestants that share them are compared."""
    columns: tuple[Column, ...]
    title: Callable[[Row], str]
    """Names the subject of a row in a few words."""
    settings: tuple[str, ...] = ()
    """Keys of ours that make another subject of it, such as being compiled."""
    told: tuple[str, str] | None = ("seconds", "{:.2f} s")
    """Key of the number that tells most of a row, and how it is written. None: nothing does."""


@dataclass(frozen=True)
class Group:
    """One subject as one run measured it: ours first, then the peers in their order."""

    rows: tuple[Row, ...]

    @property
    def ours(self) -> Row | None:
        """Our row, if we took part."""
        first = self.rows[0]
        return first if first.line is first.ours else None


def ratio(row: Row, key: str) -> float | None:
    """Returns ours / theirs of one number, None where either is missing."""
    if row.ours is None or not row.line.get(key) or row.ours.get(key) is None:
        return None
    return row.ours[key] / row.line[key]


def contestant(row: Row) -> str:
    """Returns who was measured, with the version if it is not us."""
    label = str(row.line.get("label", _contestant(row.line)))
    return NAMES.get(label, label.replace(OURS, NAMES[OURS]))


def groups(lines: Iterable[Line], table: str, layout: Layout) -> list[Group]:
    """Returns what was measured for a table with a layout, machine by machine.

    Of one subject with the same settings on one machine the last run counts, and within a run the
    last line of each contestant. An error that was measured for all sizes at once is added to each.

    Args:
        lines: measurements in the order in which they were made.
        table: the lines' name of it.
        layout: what belongs together in it.
    """
    lines = list(lines)
    errors = {_who(line): line["rms_error"] for line in lines if line["table"] == f"{table}_error"}
    by_run: dict[tuple[Any, ...], dict[str, Line]] = {}
    for line in lines:
        if line["table"] != table:
            continue
        subject = tuple(line.get(key) for key in layout.subject)
        known = errors.get(_who(line))
        line = line if known is None else {**line, "rms_error": known}
        contestants = by_run.setdefault((line["machine"]["name"], line["run"], subject), {})
        contestants[_contestant(line)] = line
    latest: dict[tuple[Any, ...], dict[str, Line]] = {}
    for (machine, _, subject), contestants in by_run.items():
        ours = contestants.get(OURS, {})
        key = (machine, subject, tuple(ours.get(name) for name in layout.settings))
        latest[key] = contestants
    return [_group(contestants) for contestants in latest.values()]


def _contestant(line: Line) -> str:
    return line.get("contestant", OURS)


def _who(line: Line) -> tuple[Any, ...]:
    keys = ("run", "model", "layers", "format", "contestant")
    return tuple(line.get(key) for key in keys)


def _group(contestants: Mapping[str, Line]) -> Group:
    ours = contestants.get(OURS)
    order = sorted(contestants.values(), key=lambda line: line is not ours)
    return Group(tuple(Row(line, ours) for line in order))
