"""Settings that a run is sampled with: presets, and what distilled models and LoRAs are made for.

Contents are data: `files/*.json` (presets) and `distilled.json` (what tells distilled files).
"""

from .choice import Models, Settings, choose, official
from .preset import AUTO, Preset, find_preset, preset_names, presets
from .recognition import Alpha, Distilled, marks, recognise
from .values import Values

__all__ = [
    "AUTO",
    "Alpha",
    "Distilled",
    "Models",
    "Preset",
    "Settings",
    "Values",
    "choose",
    "find_preset",
    "marks",
    "official",
    "preset_names",
    "presets",
    "recognise",
]
