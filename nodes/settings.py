"""Sampling settings: widgets shared by the sampling nodes, and what 0 and -1 stand for."""

from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io

from ..wan_model.config import OFFICIAL, OfficialSettings
from ..wan_model.errors import SettingsError
from ._comfy.sampling import run_shift, samplers

T2V = OFFICIAL["t2v"]

SHIFT_TOOLTIP = (
    "Moves steps towards high noise. 0: the official value, 12 for T2V, 5 for I2V and 5B, or that "
    "of ModelSamplingSD3 in front. 4-step LoRAs are made for 5; 3 is advised for I2V at 480p."
)


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
        f"{name} has no effect here: Wan's schedule is that of a flow with a shift."
        for name in dict.fromkeys(run_shift.sampling_in_front(m) for m in models if m is not None)
        if name is not None
    ]
    front = [found for found in run_shift.shifts_in_front(*models) if found > 0]
    named = " and ".join(f"{found:g}" for found in front)
    if shift > 0 and front and front != [shift]:
        said.append(f"The MODEL's shift {named} is not used: this node's is {shift:g}, 0 takes it.")
    elif shift <= 0 and front:
        one = f", of {named}: a run has one" if len(front) > 1 else ""
        said.append(f"shift {front[0]:g} from the MODEL{one}")
        shift = front[0]
    return shift, said


def steps_input() -> io.Int.Input:
    """Number of steps over both experts."""
    return io.Int.Input(
        "steps",
        default=0,
        min=-1,
        max=1000,
        tooltip="Steps over both experts together. 0: the official number, 40 for A14B and 50 for "
        "5B. 20 is a good compromise; models with a 4-step LoRA want 4.",
    )


def cfg_input(which: str, values: str) -> io.Float.Input:
    """Guidance scale of one expert."""
    return io.Float.Input(
        f"cfg_{which}",
        default=0.0,
        min=-1.0,
        max=100.0,
        step=0.1,
        round=0.01,
        tooltip=f"Guidance scale of the {which}-noise expert. 0: the official value, {values}. 1 "
        "ignores the negative prompt and halves the time: right for 4-step LoRAs.",
    )


def shift_input(*, optional: bool = False, tooltip: str = SHIFT_TOOLTIP) -> io.Float.Input:
    """Shift of the noise schedule."""
    return io.Float.Input(
        "shift",
        default=0.0,
        min=-1.0,
        max=100.0,
        step=0.5,
        round=0.01,
        optional=optional,
        tooltip=tooltip,
    )


def boundary_input() -> io.Float.Input:
    """Where the low-noise expert takes over."""
    return io.Float.Input(
        "boundary",
        default=0.0,
        min=-1.0,
        max=1.0,
        step=0.005,
        round=0.0001,
        tooltip="Noise level (sigma) below which the low-noise expert takes over. 0: the official "
        "value, 0.875 for T2V, 0.9 for I2V. The step follows from the schedule and is shown.",
    )


def denoise_input() -> io.Float.Input:
    """Part of the schedule to run."""
    return io.Float.Input(
        "denoise",
        default=1.0,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip="1 makes a new video. Less keeps that much of the latent's own content: the last "
        "part of a longer schedule is run, as in KSampler.",
    )


def scheduler_input() -> io.Combo.Input:
    """Spacing of the noise levels."""
    return io.Combo.Input(
        "scheduler",
        options=samplers.scheduler_names(),
        default="wan",
        tooltip="Spacing of the noise levels. wan: the official list of the chosen sampler. The "
        "others are ComfyUI's schedulers with this shift; simple is nearly the official list of "
        "DPM++.",
    )
