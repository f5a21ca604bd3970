"""Sampling settings: what 0 and -1 in a widget mean."""

from dataclasses import dataclass

from ..wan_model.config import OFFICIAL, OfficialSettings
from ..wan_model.errors import SettingsError

T2V = OFFICIAL["t2v"]


@dataclass(frozen=True)
class Settings:
    """Settings with every official value filled in."""

    steps: int
    shift: float
    boundary: float
    cfg_high: float
    cfg_low: float


def resolve(
    official: OfficialSettings,
    *,
    steps: int = 0,
    shift: float = 0,
    boundary: float = 0,
    cfg_high: float = 0,
    cfg_low: float = 0,
) -> Settings:
    """Replaces 0 and negative numbers by the official value of a model.

    Raises:
        SettingsError: for a boundary above 1.
    """
    if boundary > 1:
        raise SettingsError(
            f"The expert boundary cannot be used. Got {boundary:g}, need at most 1. Use 0 for the "
            "official one: 0.875 for T2V, 0.9 for I2V."
        )
    return Settings(
        steps=steps if steps > 0 else official.steps,
        shift=shift if shift > 0 else official.shift,
        boundary=boundary if boundary > 0 else (official.boundary or 0.0),
        cfg_high=cfg_high if cfg_high > 0 else official.cfg_high,
        cfg_low=cfg_low if cfg_low > 0 else official.cfg_low,
    )
