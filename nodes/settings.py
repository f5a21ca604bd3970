"""Sampling settings: what 0, -1 and "auto" in a widget mean."""

from collections.abc import Sequence
from typing import Any

from ..wan_model.errors import SettingsError
from ..wan_model.presets import AUTO, Models, Settings, Values, choose, find_preset
from ._comfy.sampling import run_shift


def typed(**widgets: Any) -> Values:
    """Returns the widgets' values in which a person decided something."""
    return Values(**{name: value for name, value in widgets.items() if not is_open(value)})


def is_open(value: Any) -> bool:
    """Whether a widget leaves its value open: by "auto", 0, or a negative number."""
    return value == AUTO if isinstance(value, str) else value is None or value <= 0


def resolve(
    models: Models, values: Values, preset: str = AUTO, denoise: float = 1.0
) -> tuple[Settings, list[str]]:
    """Fills in what was left open: by the preset, by what the models are made for, official values.

    Returns:
        the settings, and what is to be said of where they come from.

    Raises:
        SettingsError: for a boundary above 1.
    """
    if values.boundary is not None and values.boundary > 1:
        raise SettingsError(
            f"The expert boundary cannot be used. Got {values.boundary:g}, need at most 1. Use 0 "
            "for the official one: 0.875 for T2V, 0.9 for I2V."
        )
    return choose(models, values, find_preset(preset), denoise)


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
    shift, of_front = shift_with(shift, run_shift.shifts_in_front(*models))
    return shift, [*said, *of_front]


def shift_with(shift: float, in_front: Sequence[float]) -> tuple[float, list[str]]:
    """Returns the same of the shifts that nodes in front give to the MODELs, each once."""
    said: list[str] = []
    front = [found for found in in_front if found > 0]
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
