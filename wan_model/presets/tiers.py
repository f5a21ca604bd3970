"""Tiers of speed: what is left open at the loaders, by how exact the video has to be.

The contents are data, `tiers.json`. What of it a machine can do is found out there.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..errors import SettingsError
from .preset import AUTO

FILE = Path(__file__).with_name("tiers.json")


@dataclass(frozen=True, kw_only=True)
class Tier:
    """One of them."""

    name: str
    steps: str
    """What becomes of steps, for people."""
    eight_bit: bool
    """Whether 8-bit weights are multiplied as they are even if their file asks for full precision;
    if not, all are multiplied in 16 bit."""
    attention: tuple[str, ...]
    """Names of attention, of which the first that runs is taken."""
    cache_threshold: float | None
    """Of the step cache, 0 for its own; None: none."""


@cache
def tiers() -> dict[str, Tier]:
    """Returns all tiers by name, the most exact first."""
    found = {}
    for name, given in json.loads(FILE.read_text("utf-8")).items():
        given["attention"] = tuple(given["attention"])
        found[name] = Tier(name=name, **given)
    return found


def tier_names() -> list[str]:
    """Returns what a list of tiers has: "auto", which is none, then their names."""
    return [AUTO, *tiers()]


def find_tier(name: str) -> Tier | None:
    """Returns a tier by its name; None for "auto".

    Raises:
        SettingsError: for a name that there is not.
    """
    if name not in tier_names():
        raise SettingsError(
            f"There is no such speed. Got {name!r}, need one of: {', '.join(tier_names())}. "
            "Choose auto."
        )
    return tiers().get(name)
