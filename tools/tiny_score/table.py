"""Adds up scores."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .expect import Target, expect
from .score import Score


@dataclass(frozen=True)
class Rates:
    """Shares of videos in which something is right, in [0, 1]."""

    videos: int
    colour: float
    shape: float
    motion: float
    count: float
    all: float
    kind: float = 1.0
    """What scenes of a richer kind are about."""


def rates(scores: Sequence[Score]) -> Rates:
    """Returns the shares over at least one score."""

    def share(right: Callable[[Score], bool]) -> float:
        return sum(map(right, scores)) / len(scores)

    return Rates(
        len(scores),
        share(lambda score: score.colour_ok),
        share(lambda score: score.shape_ok),
        share(lambda score: score.motion_ok),
        share(lambda score: score.count_ok),
        share(lambda score: score.ok),
        share(lambda score: score.kind_ok),
    )


def table(results: Iterable[tuple[Target, Score]], by: str = "motion") -> str:
    """Returns a Markdown table: one row for all, then one for every value of a property.

    Args:
        results: targets with their scores.
        by: "colour", "shape" or "motion" of the target's first object.
    """
    groups: dict[str, list[Score]] = {"all": []}
    for target, score in results:
        groups["all"].append(score)
        groups.setdefault(str(getattr(expect(target)[0], by)), []).append(score)
    head = ("", "videos", "colour", "shape", "motion", "count", "all right")
    rows = [head, ("---",) + ("---:",) * (len(head) - 1)]
    for name, scores in groups.items():
        found = rates(scores)
        shares = (found.colour, found.shape, found.motion, found.count, found.all)
        rows.append((name, str(found.videos), *(f"{100 * share:.0f} %" for share in shares)))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
