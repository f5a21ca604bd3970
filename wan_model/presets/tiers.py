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
class Measured:
    """What a tier does to the clips of wan22-tiny, beside fp32 without a cache.

    Of matmuls and step cache, each measured alone (benchmarks/RESULTS.md); their errors are added
    as independent ones are.
    """

    psnr_db: float
    """Mean over clips."""
    all_right: float
    """Part of the clips in which colour, shape, motion and number are as the prompt has them."""
    passes: float
    """Part of the forward passes that are left, in runs with the official number of steps."""

    def __str__(self) -> str:
        """For people."""
        return (
            f"wan22-tiny's videos are {self.psnr_db:.0f} dB from exact ones, {self.all_right:.0%} "
            f"of them show what was asked for, and long runs need {self.passes:.0%} of the passes"
        )


@dataclass(frozen=True, kw_only=True)
class Tier:
    """One of them."""

    name: str
    note: str
    """What it does, for people."""
    eight_bit: bool
    """Whether 8-bit weights are multiplied as they are even if their file asks for full precision;
    if not, all are multiplied in 16 bit."""
    attention: tuple[str, ...]
    """Names of attention, of which the first that runs is taken."""
    cache_threshold: float | None
    """Of the step cache, 0 for its own; None: none."""
    measured: Measured | None = None


@cache
def tiers() -> dict[str, Tier]:
    """Returns all tiers by name, the most exact first."""
    found = {}
    for name, given in json.loads(FILE.read_text("utf-8")).items():
        measured = given.pop("measured", None)
        given["attention"] = tuple(given["attention"])
        found[name] = Tier(name=name, measured=measured and Measured(**measured), **given)
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
