"""Several prompts over the time of one video: which frames each is for, and how they meet.

What a person writes is one text. A line that begins with a range begins a prompt; what comes
before the first range belongs to every prompt:

    A small harbour, soft side light.
    0-2s: A fishing boat lies at the pier.
    2-5s: The boat leaves the harbour.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import SettingsError

RANGE = re.compile(
    r"^\s*(\d+(?:\.\d+)?)\s*(?:(s|f|\u79d2|\u5e27)\s*)?[-\u2013\u2014~\uff5e]\s*"
    r"(?:(\d+(?:\.\d+)?)\s*(?:(s|f|\u79d2|\u5e27)\s*)?)?[:\uff1a](.*)$",
    re.IGNORECASE,
)
"""`0-40:`, `0-2.5s:`, `3s-:`; f or no letter: frames, s: seconds, no end: to the end. With Chinese
units as well. Spaces can belong to one place only, or a line of many would take hours."""
LIKE_A_RANGE = re.compile(r"^\s*\d[\d.:]*\s*(?:\S{1,2}\s*)?[-\u2013\u2014~\uff5e]\s*\d.*[:\uff1a]")
SECONDS = ("s", "\u79d2")

SHOWN = 40
"""Characters of a range that are repeated in an error."""

LATENT_FRAMES = 4
"""Frames of the video in one of the latent, but for the first, which has one."""


@dataclass(frozen=True)
class TimedText:
    """A prompt and its part of the video."""

    text: str
    start: float
    """In frames from the beginning of the video: 0 is where the first frame begins."""
    end: float
    """Where it ends, in frames; infinite: with the video."""


def parse_timed_text(text: str, fps: float) -> tuple[TimedText, ...]:
    """Returns the prompts of a text, in its order; one for all frames if it has no range.

    Args:
        text: see the module. Ranges of frames include both, those of seconds end where they say.
        fps: frames per second, for ranges in seconds.

    Raises:
        SettingsError: if a range or its prompt is empty.
    """
    common: list[str] = []
    found: list[tuple[str, float, float, list[str]]] = []
    for line in text.splitlines():
        match = RANGE.match(line)
        if match is None:
            if LIKE_A_RANGE.match(line):
                raise _unreadable(line)
            (found[-1][3] if found else common).append(line)
            continue
        start, end = _frames(match, fps)
        name = line[: match.start(5)].strip()[:SHOWN]
        found.append((name, start, end, [match[5]]))
    if not found:
        return (TimedText(text.strip(), 0.0, math.inf),)
    return tuple(_timed(common, *one) for one in found)


def _frames(match: re.Match[str], fps: float) -> tuple[float, float]:
    """Returns where a range begins and ends, in frames."""
    first, first_unit, last, last_unit, _ = match.groups()
    units = [(unit or "").lower() for unit in (first_unit or last_unit, last_unit or first_unit)]
    start = float(first) * (fps if units[0] in SECONDS else 1)
    if last is None:
        return start, math.inf
    return start, float(last) * fps if units[1] in SECONDS else float(last) + 1


def _unreadable(line: str) -> SettingsError:
    return SettingsError(
        f"A prompt's range cannot be read. Got '{line.strip()[:SHOWN]}', need frames or seconds. "
        "Write frames as 0-40: and seconds as 0-2.5s:"
    )


def _timed(
    common: Sequence[str], name: str, start: float, end: float, lines: Sequence[str]
) -> TimedText:
    if not end > start:
        raise SettingsError(
            f"A prompt's range is empty. Got '{name}', need an end behind its beginning. Write "
            "frames as 0-40: and seconds as 0-2.5s:"
        )
    own = "\n".join(lines).strip()
    if not own:
        raise SettingsError(
            f"A range has no prompt. Got '{name}' and nothing behind it, need what these frames "
            "show. Write it behind the colon, or take the range away."
        )
    return TimedText("\n".join([*common, own]).strip(), start, end)


def weights_of_frames(
    texts: Sequence[TimedText], frames: Sequence[int], transition: float
) -> list[list[float]]:
    """Returns how much of each prompt each latent frame gets; the sum is 1.

    A prompt's weight falls linearly from 1 to 0 over the transition, whose middle is its border.
    A latent frame gets the mean over its frames of the video, and where several prompts meet, their
    shares. A frame without a prompt gets the nearest one.

    Args:
        texts: the prompts.
        frames: numbers of latent frames, from 0.
        transition: length of a border in frames of the video; 0 is a cut.
    """
    return [_shares(texts, frame, transition) for frame in frames]


def _shares(texts: Sequence[TimedText], latent: int, transition: float) -> list[float]:
    first = max(0, LATENT_FRAMES * (latent - 1) + 1)
    centres = [frame + 0.5 for frame in range(first, LATENT_FRAMES * latent + 1)]
    sums = [sum(_weight(text, centre, transition) for centre in centres) for text in texts]
    total = sum(sums)
    if total > 0:
        return [part / total for part in sums]
    centre = sum(centres) / len(centres)
    away = [max(text.start - centre, centre - text.end) for text in texts]
    return [float(number == away.index(min(away))) for number in range(len(texts))]


def _weight(text: TimedText, centre: float, transition: float) -> float:
    """Returns 0 to 1 for the middle of a frame."""
    inside = min(centre - text.start, text.end - centre)
    if transition <= 0:
        return float(inside >= 0)
    begun, left = ((edge / transition) + 0.5 for edge in (centre - text.start, text.end - centre))
    return min(max(begun, 0.0), 1.0) * min(max(left, 0.0), 1.0)
