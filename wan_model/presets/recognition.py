"""Models and LoRAs that are made for few steps, by their names, their headers and their tensors.

What tells them, and what they want, is in `distilled.json`, a row for each family with its sources.
Rows are tried in order, the first that fits counts.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ..config import Kind
from .preset import presets
from .values import Values

TABLE = Path(__file__).with_name("distilled.json")
STEPS = re.compile(r"(?<![0-9])([2-8])[ _.-]*steps?(?![ _.-]*[0-9]|[a-z])")
"""A number of steps in a name; those of a training follow the word, or are larger."""

TITLES = ("modelspec.title", "ss_output_name", "name", "title", "general.name")
"""Fields of a header that hold a name."""

Of = Literal["model", "lora"]


@dataclass(frozen=True)
class Alpha:
    """How a LoRA's scale is stored."""

    rank: int
    value: float
    stored: str
    """As safetensors name it."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A row: what tells a family of distilled files, and what it is sampled with."""

    what: str
    files: str
    settings: Values
    by_kind: Mapping[Kind, Values]
    name: re.Pattern[str] | None = None
    tensors: re.Pattern[str] | None = None
    alpha: Alpha | None = None


@dataclass(frozen=True)
class Distilled:
    """A file that is made for few steps."""

    file: str
    mark: Mark
    sign: str
    """What tells it, for people."""
    steps: int | None = None
    """As in its name."""

    def values(self, kind: Kind) -> Values:
        """Returns what it wants to be sampled with."""
        named = Values(steps=self.steps) if self.steps else Values()
        return named.over(self.mark.by_kind.get(kind, Values()).over(self.mark.settings))

    def describe(self) -> str:
        """Returns who says what it is: "a.safetensors is distilled, by its name"."""
        return f"{self.file} is {self.mark.what}, by {self.sign}"


@cache
def marks() -> tuple[Mark, ...]:
    """Returns the table."""
    return tuple(_mark(row) for row in json.loads(TABLE.read_text("utf-8")))


def recognise(
    file: str,
    of: Of,
    metadata: Mapping[str, str] | None = None,
    tensors: Collection[str] = (),
    alphas: Sequence[Alpha] = (),
) -> Distilled | None:
    """Tells whether a file is made for few steps.

    Args:
        file: its name, with folders if they belong to it.
        of: what it is.
        metadata: its header.
        tensors: names of them.
        alphas: how scales of a LoRA are stored; some of them are enough.
    """
    rows = [row for row in marks() if row.files in ("both", of)]
    names = [(file, "its name")]
    names += [(str((metadata or {}).get(field, "")), "the title in it") for field in TITLES]
    for row in rows:
        if row.tensors is not None and any(row.tensors.search(name) for name in tensors):
            return Distilled(file, row, "its tensors")
        if row.alpha is not None and alphas and all(alpha == row.alpha for alpha in alphas):
            return Distilled(file, row, "its tensors")
        for name, sign in names:
            if row.name is not None and row.name.search(name.lower()):
                steps = STEPS.search(name.lower()) if row.settings.levels is None else None
                return Distilled(file, row, sign, int(steps[1]) if steps else None)
    return None


def _mark(row: Mapping[str, Any]) -> Mark:
    preset = presets()[row["preset"]] if "preset" in row else None
    settings = Values.of(row.get("settings", {}))
    kinds: dict[Kind, Values] = {
        kind: Values.of(row.get("by_kind", {}).get(kind, {})).over(
            settings.over(preset.values(kind)) if preset else settings
        )
        for kind in ("t2v", "i2v", "ti2v")
    }
    name, tensors, alpha = (row.get(key) for key in ("name", "tensors", "alpha"))
    return Mark(
        what=row["what"],
        files=row["files"],
        settings=settings,
        by_kind=kinds,
        name=re.compile(name) if name else None,
        tensors=re.compile(tensors) if tensors else None,
        alpha=Alpha(**alpha) if alpha else None,
    )
