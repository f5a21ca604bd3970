"""Sampling settings: what 0 and -1 in a widget mean."""

from dataclasses import dataclass
from typing import Any

from ..wan_model.config import OFFICIAL, OfficialSettings
from ..wan_model.errors import SettingsError
from ._comfy.sampling import run_shift

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


def shift_of_run(shift: float, *models: Any) -> tuple[float, list[str]]:
    """Returns what a shift widget means with these MODELs, and what is to be said of it.

    Args:
        shift: the widget's value. At 0 and below, that of a node in front counts, if there is one.
        models: the experts, or None where there is none.
    """
    said = [
        f"{name} has no effect here: Wan's schedule takes a shift only."
        for name in dict.fromkeys(run_shift.sampling_in_front(m) for m in models if m is not None)
        if name is not None
    ]
    front = [found for found in run_shift.shifts_in_front(*models) if found > 0]
    named = " and ".join(f"{found:g}" for found in front)
    if shift > 0 and front and front != [shift]:
        said.append(
            f"The model's shift {named} is ignored: this node says {shift:g}. Set it to 0 to use "
            "the model's."
        )
    elif shift <= 0 and front:
        one = f", of {named}: a run has one" if len(front) > 1 else ""
        said.append(f"shift {front[0]:g} from the MODEL{one}")
        shift = front[0]
    return shift, said
