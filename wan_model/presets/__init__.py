"""Settings that a run is sampled with: presets, and what distilled models and LoRAs are made for.

Contents are data: `files/*.json` (presets), `distilled.json` (what tells distilled files) and
`tiers.json` (tiers of speed).
"""

from .choice import Models, Settings, choose, official
from .preset import AUTO, Preset, find_preset, preset_names, presets
from .recognition import Alpha, Distilled, marks, recognise
from .tiers import Tier, find_tier, tier_names, tiers
from .values import Values

__all__ = [
    "AUTO",
    "Alpha",
    "Distilled",
    "Models",
    "Preset",
    "Settings",
    "Tier",
    "Values",
    "choose",
    "find_preset",
    "find_tier",
    "marks",
    "official",
    "preset_names",
    "presets",
    "recognise",
    "tier_names",
    "tiers",
]
