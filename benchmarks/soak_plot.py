"""What servers have left after each /free, as an SVG file: one panel per quantity."""

from collections.abc import Callable, Mapping, Sequence
from xml.sax.saxutils import escape

from tests.comfy.long_run import Sample

WIDTH, HEIGHT, LEFT, GAP = 760, 130, 90, 34
COLOURS = ("#2a6fb0", "#8a8a8a")
TITLES = {
    "heap_kib": ("not freed, MiB", 1 / 1024),
    "rss_kib": ("private memory, MiB", 1 / 1024),
    "files": ("open files", 1.0),
    "threads": ("threads", 1.0),
    "disk_bytes": ("below user/, KiB", 1 / 1024),
}


def draw(
    samples: Mapping[str, Sequence[Sample]], quantities: Mapping[str, Callable[[Sample], float]]
) -> str:
    """Returns the file's text.

    Args:
        samples: of each server.
        quantities: what to show, with keys of `TITLES`.
    """
    height = len(quantities) * (HEIGHT + GAP) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for index, (name, colour) in enumerate(zip(samples, COLOURS, strict=False)):
        parts.append(_text(WIDTH - 180 + 90 * index, 16, name, colour))
    last = max((each.prompts for line in samples.values() for each in line), default=1)
    for row, (key, value) in enumerate(quantities.items()):
        top = GAP + row * (HEIGHT + GAP)
        parts += _panel(samples, lambda each, v=value, k=key: v(each) * TITLES[k][1], last, top)
        parts.append(_text(LEFT, top - 6, TITLES[key][0], "black"))
    return "\n".join([*parts, "</svg>", ""])


def _panel(
    samples: Mapping[str, Sequence[Sample]],
    value: Callable[[Sample], float],
    last: int,
    top: int,
) -> list[str]:
    values = [value(each) for line in samples.values() for each in line]
    most = max(values, default=1.0) * 1.1 or 1.0
    right, bottom = WIDTH - 20, top + HEIGHT

    def place(each: Sample) -> str:
        x = LEFT + (right - LEFT) * each.prompts / last
        return f"{x:.1f},{bottom - HEIGHT * value(each) / most:.1f}"

    parts = [
        f'<rect x="{LEFT}" y="{top}" width="{right - LEFT}" height="{HEIGHT}" fill="none" '
        'stroke="#cccccc"/>',
        _text(LEFT - 6, top + 10, f"{most:.4g}", "black", "end"),
        _text(LEFT - 6, bottom, "0", "black", "end"),
        _text(right, bottom + 14, f"{last} prompts", "black", "end"),
    ]
    for line, colour in zip(samples.values(), COLOURS, strict=False):
        points = " ".join(place(each) for each in line)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
    return parts


def _text(x: float, y: float, text: str, colour: str, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}" text-anchor="{anchor}">{escape(text)}</text>'
