"""Tables of measurements in Markdown, and their places in a text."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from .layouts import LAYOUTS
from .lines import ABOUT_RUN, Line
from .tables import Group, Layout, Row, contestant, groups, ratio

MARKERS = re.compile(r"<!-- (table:(?P<name>\S+)|(?P<end>/table)) -->")
PART_OF_ANOTHER = ("_ratio", "_error")
"""Ends of table names whose lines other tables show."""


class ReportError(ValueError):
    """A text whose places for tables cannot be found."""


def tables(lines: Sequence[Line]) -> dict[str, str]:
    """Returns every table that the lines give, by name."""
    names = dict.fromkeys(line["table"] for line in lines)
    return {name: table(lines, name) for name in names if not name.endswith(PART_OF_ANOTHER)}


def table(lines: Iterable[Line], name: str) -> str:
    """Returns one table, in parts by machine and versions, each under a line that names them.

    A table without a layout shows all that its lines hold.
    """
    if layout := LAYOUTS.get(name):
        rows = [row for group in groups(lines, name, layout) for row in group.rows]
        titles = [column.title for column in layout.columns]
        cells = [(row, [column.text(row) for column in layout.columns]) for row in rows]
    else:
        found = [line for line in lines if line["table"] == name]
        keys = dict.fromkeys(
            key for line in found for key in line if key not in ("table", *ABOUT_RUN)
        )
        titles = [key.replace("_", " ") for key in keys]
        cells = [(Row(line, None), [_plain(line.get(key)) for key in keys]) for line in found]
    # A stable sort: machines in the order of their first measurement.
    places = list(dict.fromkeys(environment(row.line) for row, _ in cells))
    cells.sort(key=lambda cell: places.index(environment(cell[0].line)))
    parts = []
    for place, members in groupby(cells, key=lambda cell: environment(cell[0].line)):
        body = list(members)
        parts.append(f"{place}, {_dates([row.line for row, _ in body])}.\n\n")
        parts[-1] += _rows(titles, [texts for _, texts in body])
    return "\n".join(parts)


def environment(line: Line) -> str:
    """Returns machine and versions in words."""
    machine, versions = line["machine"], line["versions"]
    words = [machine["name"]]
    if machine.get("memory_gib"):
        words[0] += f" {machine['memory_gib']:.0f} GiB"
    for key, form in (("driver_version", "driver {}"), ("power.limit", "limit {}")):
        if machine.get(key):
            words.append(form.format(machine[key]))
    words += [f"{name} {version}" for name, version in versions.items()]
    return ", ".join(words)


def headline(lines: Sequence[Line]) -> str:
    """Returns the newest machine, its versions and our numbers on it in one line.

    Such as "RTX 4090 24 GiB | wan-duet 83b72d0 | torch 2.9.1 | A14B 832x480x81 bf16 (sdpa) 5.10 s
    (0.84 of ComfyUI 0.3.75), peak 2.3 GiB".
    """
    machine = lines[-1]["machine"]
    here = [line for line in lines if line["machine"]["name"] == machine["name"]]
    memory = f" {machine['memory_gib']:.0f} GiB" if machine.get("memory_gib") else ""
    parts = [machine["name"] + memory]
    parts += [f"wan-duet {lines[-1]['commit']}"] if lines[-1]["commit"] else []
    parts += [f"{name} {version}" for name, version in lines[-1]["versions"].items()]
    for name, layout in LAYOUTS.items():
        parts += filter(None, (_told(group, layout) for group in groups(here, name, layout)))
    return " | ".join(parts)


def _told(group: Group, layout: Layout) -> str:
    """Returns our number that tells most, its ratios to the peers' and our peak, in words."""
    key, form = layout.told or ("", "")
    if group.ours is None or group.ours.line.get(key) is None:
        return ""
    part = f"{layout.title(group.ours)} {form.format(group.ours.line[key])}"
    ratios = [(ratio(row, key), contestant(row)) for row in group.rows[1:]]
    told = ", ".join(f"{value:.2f} of {who}" for value, who in ratios if value)
    part += f" ({told})" if told else ""
    peak = group.ours.number("peak_gib", ".1f")
    return part + (f", peak {peak} GiB" if peak else "")


def rewrite(text: str, new: Mapping[str, str]) -> str:
    """Returns a text with new tables between their markers, and all else as it was.

    The markers are `<!-- table:NAME -->` and `<!-- /table -->`. A marked place without a new table
    keeps what it holds.

    Raises:
        ReportError: for a marker without its other one.
    """
    result, position, name = [], 0, ""
    for marker in MARKERS.finditer(text):
        if bool(marker["end"]) != bool(name):
            line = text.count("\n", 0, marker.start()) + 1
            raise ReportError(
                f"The markers of tables do not match. Got {marker[0]} in line {line}, need "
                f"{'<!-- /table -->' if name else '<!-- table:NAME -->'}. Correct the text."
            )
        if marker["end"] and name in new:
            result.append(f"\n{new[name]}")
        else:
            result.append(text[position : marker.start()])
        result.append(marker[0])
        name, position = marker["name"] or "", marker.end()
    if name:
        raise ReportError(
            f"The table {name} has no end. Got the end of the text, need <!-- /table -->. Add it."
        )
    return "".join((*result, text[position:]))


def places(text: str) -> set[str]:
    """Returns the names of the tables that a text has a place for."""
    return {marker["name"] for marker in MARKERS.finditer(text) if marker["name"]}


def _rows(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *([_cell(text) for text in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str) -> str:
    """Returns text that does not end a cell or a row."""
    return " ".join(text.split()).replace("|", "/")


def _plain(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return format(value, ".4g") if isinstance(value, float) else str(value)


def _dates(lines: Iterable[Line]) -> str:
    days = sorted({line["date"][:10] for line in lines})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
