"""Which expert a LoRA file is for, and which file is its partner for the other expert."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from ..loading import Expert, guess_expert, guess_pair

TITLES = ("modelspec.title", "ss_output_name", "name", "ss_base_model_version", "ss_sd_model_name")
"""Fields of a header that may speak of an expert."""

LARGEST = 1000.0
"""Timesteps of training go from 0 to it."""

SWITCHES = (875.0, 900.0)
"""Timesteps at which the experts of T2V and I2V take turns."""

OTHER_WORD = {"high": "low", "low": "high"}

_WORD = re.compile(r"(?<![a-zA-Z])(high|low)(?![a-z])|(high|low)(?=[ _-]?noise)", re.IGNORECASE)


def experts_of(
    high: Path, low: Path, metadata: tuple[Mapping[str, str], Mapping[str, str]] = ({}, {})
) -> tuple[Expert | None, Expert | None]:
    """Guesses which experts two files are for, by their names, else by their headers."""
    of_high, of_low = guess_pair(high, low)
    return of_high or _in_header(metadata[0]), of_low or _in_header(metadata[1])


def partner(name: str, names: Collection[str]) -> str | None:
    """Finds the file for the other expert.

    Args:
        name: of a file, as listed.
        names: of all files.

    Returns:
        the file of the same name with the other word; else the only one of nearly that name, where
        only numbers differ; None without one.
    """
    wanted = _WORD.sub(lambda found: _like(found[0], OTHER_WORD[found[0].lower()]), name)
    if wanted == name:
        return None
    if wanted in names:
        return wanted
    alike = [other for other in names if _without_numbers(other) == _without_numbers(wanted)]
    return alike[0] if len(alike) == 1 else None


def _like(model: str, word: str) -> str:
    """Returns a word in the case of another."""
    if model.isupper():
        return word.upper()
    return word.capitalize() if model[0].isupper() else word


def _without_numbers(name: str) -> str:
    return re.sub(r"\d+", "", name)


def _in_header(metadata: Mapping[str, str]) -> Expert | None:
    for field in TITLES:
        found = guess_expert(Path(metadata.get(field, "")))
        if found:
            return found
    try:
        first = float(metadata.get("ss_min_timestep", 0))
        last = float(metadata.get("ss_max_timestep", LARGEST))
    except ValueError:
        return None
    if first >= min(SWITCHES) and last >= LARGEST - 1:
        return "high"
    return "low" if first == 0 and last <= max(SWITCHES) else None
