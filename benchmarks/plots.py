"""Bars of seconds and memory beside the peers', as PNG files. Needs matplotlib."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .layouts import LAYOUTS
from .lines import Line
from .tables import Group, Row, contestant, groups

OUR_COLOUR = "#2a6fb0"
PEER_COLOURS = ("#b8b8b8", "#8a8a8a", "#646464")
BAR_INCHES = 0.28
QUANTITIES = (("seconds", "seconds"), ("peak_gib", "peak GiB"))
SPEED = ("speed_px", "pixels of 128 a frame", "%.2f", 1)
ALL_RIGHT = ("all_right", "videos as the prompt says, %", "%.0f", 100)
BARS = {
    "speed_tiers": (
        lambda row: f"{row.name('tier')}, {row.name('attention')}",
        ("passes", "forward passes that are left, %", "%.0f", 100),
        ("to_fp32_db", "videos, PSNR to fp32, dB", "%.1f", 1),
    ),
    "quality": (
        lambda row: ", ".join(filter(None, map(row.name, ("videos", "scenes", "preset")))),
        ALL_RIGHT,
        SPEED,
    ),
    "motion": (
        lambda row: f"motion_amplitude {row.name('amplitude')}, {row.name('steps')} steps",
        SPEED,
        ("drift_levels", "background's drift, levels of 255", "%.1f", 1),
    ),
    "negative": (
        lambda row: row.name("way"),
        ("same_background", "videos with the same background, %", "%.0f", 100),
        ALL_RIGHT,
    ),
}
"""Tables without peers: how a row is called, and two quantities: key, title, form, factor."""


def plot(lines: Sequence[Line], folder: Path) -> list[Path]:
    """Writes one plot per table that compares, and returns their paths.

    Raises:
        ImportError: without matplotlib.
    """
    from matplotlib.figure import Figure

    written = []
    for name, layout in LAYOUTS.items():
        if layout.told is None or layout.told[0] != QUANTITIES[0][0]:
            continue
        compared = [
            group
            for group in groups(lines, name, layout)
            if len(group.rows) > 1 and any(row.line.get("seconds") for row in group.rows)
        ]
        if not compared:
            continue
        bars = sum(len(group.rows) + 1 for group in compared)
        figure = Figure(figsize=(11, 1.2 + BAR_INCHES * bars), layout="constrained")
        for axes, (key, title) in zip(figure.subplots(1, 2, sharey=True), QUANTITIES, strict=True):
            _draw(axes, compared, key, layout.title)
            axes.set_title(title, loc="left", fontsize=10)
        folder.mkdir(parents=True, exist_ok=True)
        written.append(folder / f"{name}.png")
        figure.savefig(written[-1], dpi=120)
    for name in BARS:
        rows = [group.rows[0] for group in groups(lines, name, LAYOUTS[name])]
        if rows:
            written.append(folder / f"{name}.png")
            _plot_bars(name, rows, written[-1])
    return written


def _plot_bars(name: str, rows: Sequence[Row], file: Path) -> None:
    """Draws two quantities of a table side by side."""
    from matplotlib.figure import Figure

    called, *quantities = BARS[name]
    figure = Figure(figsize=(8, 1.0 + 2 * BAR_INCHES * len(rows)), layout="constrained")
    names = [called(row) for row in rows]
    for axes, (key, title, form, scale) in zip(
        figure.subplots(1, 2, sharey=True), quantities, strict=True
    ):
        known = {
            place: scale * row.line[key]
            for place, row in enumerate(rows)
            if row.line.get(key) is not None
        }
        bars = axes.barh(list(known), list(known.values()), height=0.7, color=OUR_COLOUR)
        axes.set_yticks(range(len(rows)), names)
        axes.bar_label(bars, fmt=form, padding=3, fontsize=9)
        axes.set_title(title, loc="left", fontsize=10)
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylim(len(rows) - 0.5, -0.5)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def _draw(axes: Any, compared: Sequence[Group], key: str, title: Callable[[Row], str]) -> None:
    """Draws the bars of one quantity, a block per group, ours first."""
    ticks, names, y = [], [], 0
    for group in compared:
        axes.text(0, y, title(group.rows[0]), fontsize=9, weight="bold", va="center")
        for index, row in enumerate(group.rows):
            y += 1
            value = row.line.get(key)
            ours = row.ours is row.line
            colour = OUR_COLOUR if ours else PEER_COLOURS[min(index, len(PEER_COLOURS)) - 1]
            axes.barh(y, value or 0, height=0.8, color=colour)
            told = row.number(key, ".2f") or str(row.line.get("failed", "not measured"))
            ratio = row.ratio(key)
            axes.text(
                value or 0,
                y,
                f" {told}" + (f", ours {ratio} of it" if ratio else ""),
                va="center",
                fontsize=8,
            )
            ticks.append(y)
            names.append(contestant(row))
        y += 1
    axes.set_yticks(ticks, names, fontsize=8)
    axes.set_ylim(y - 0.3, -0.7)
    axes.margins(x=0.3)
    axes.spines[["top", "right"]].set_visible(False)
