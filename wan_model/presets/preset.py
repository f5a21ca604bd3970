"""Presets: settings by name. Each is a JSON file in `files`, a new one needs no code."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ..config import Kind
from .values import Values

FOLDER = Path(__file__).with_name("files")
AUTO = "auto"
ORDER = (
    *("official", "balanced", "draft", "four_steps", "three_phases", "hybrid", "rcm_sde"),
    "rcm_ode",
)
"""Of the files in lists; others follow."""

Needs = Literal["base", "distilled", "low distilled"]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings by name."""

    name: str
    note: str
    """What it is for."""
    over_official: bool
    """Whether open settings are the official ones, even if the model is made for others."""
    needs: Needs
    """Which experts have to be distilled to few steps: none, all, or the low-noise one."""
    settings: Values
    by_kind: dict[Kind, Values]

    @classmethod
    def of(cls, given: dict[str, Any]) -> "Preset":
        """Reads a preset from JSON."""
        return cls(
            name=given["name"],
            note=given["note"],
            over_official=given["base"] == "official",
            needs=given["needs"],
            settings=Values.of(given["settings"]),
            by_kind={kind: Values.of(of) for kind, of in given.get("by_kind", {}).items()},
        )

    def values(self, kind: Kind) -> Values:
        """Returns what it sets for a kind of model."""
        return self.by_kind.get(kind, Values()).over(self.settings)


@cache
def presets() -> dict[str, Preset]:
    """Returns all presets by the name of their file, in the order of lists."""
    files = sorted(FOLDER.glob("*.json"), key=lambda path: (_place(path.stem), path.stem))
    return {path.stem: Preset.of(json.loads(path.read_text("utf-8"))) for path in files}


def preset_names() -> list[str]:
    """Returns what a list of presets has: "auto", which is none, then their names."""
    return [AUTO, *(preset.name for preset in presets().values())]


def find_preset(name: str) -> Preset | None:
    """Returns a preset by its name; None for "auto" and names that there are not."""
    return next((preset for preset in presets().values() if preset.name == name), None)


def _place(stem: str) -> int:
    return ORDER.index(stem) if stem in ORDER else len(ORDER)
