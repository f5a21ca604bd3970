"""Sampling settings of which any may be left open."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Values:
    """Settings by the name of what they set; None: open."""

    steps: int | None = None
    shift: float | None = None
    boundary: float | None = None
    cfg_high: float | None = None
    cfg_low: float | None = None
    sampler: str | None = None
    scheduler: str | None = None
    levels: tuple[float, ...] | None = None
    """Noise levels of its own, from high noise to 0, in the place of a schedule."""
    start_steps: int | None = None
    """First steps with a model of their own, as far as they are high noise."""
    cfg_start: float | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Values":
        """Reads settings from JSON.

        Raises:
            TypeError: for one that there is not.
        """
        levels = given.get("levels")
        return cls(**{**given, "levels": None if levels is None else tuple(levels)})

    def over(self, other: "Values") -> "Values":
        """Returns these settings, with open ones from others."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        rest = {name: getattr(other, name) for name, value in own.items() if value is None}
        if self.levels is None and self.steps is not None:
            rest["levels"] = None  # the other's levels are for its own number of steps
        return Values(**{**own, **rest})

    @property
    def count(self) -> int:
        """Steps that it asks for; 0 if that is open."""
        return self.steps or max(0, len(self.levels or ()) - 1)
