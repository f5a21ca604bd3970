"""Which of the two experts of an A14B model runs at which step.

The high-noise expert is given every call whose truncated timestep reaches boundary * 1000
(`_prepare_model_for_timestep` in `wan/text2video.py`), with the official boundaries 0.875 for
text-to-video and 0.9 for image-to-video.
"""

from dataclasses import dataclass

from torch import Tensor

from ..config import TIMESTEPS
from ..errors import SettingsError
from .schedule import make_sigmas, official_timestep


def is_high_noise(sigma: float, boundary: float) -> bool:
    """Tells whether the model call at an fp32 `sigma` belongs to the high-noise expert.

    A timestep equal to the boundary counts as high. The product is rounded to 1e-3 timesteps, so
    that a boundary that was computed (0.1 + 0.2 = 0.30000000000000004) still means timestep 300.
    """
    return official_timestep(sigma) >= round(boundary * TIMESTEPS, 3)


def count_high_noise_steps(sigmas: Tensor, boundary: float) -> int:
    """Returns how many steps of any schedule [N + 1] run on the high-noise expert.

    Step i calls the model at sigmas[i], so the last sigma does not count.

    Raises:
        SettingsError: if `boundary` is outside 0..1.
    """
    if not 0 <= boundary <= 1:
        raise SettingsError(
            f"The expert boundary cannot be used. Got {boundary:g}, need 0 to 1. "
            "Use 0.875 for text-to-video, 0.9 for image-to-video."
        )
    return sum(is_high_noise(sigma, boundary) for sigma in sigmas[:-1].tolist())


def expert_split(solver: str, steps: int, shift: float, boundary: float) -> int:
    """Returns the number of high-noise steps of a solver's official schedule.

    Raises:
        SettingsError: for settings that `make_sigmas` or `count_high_noise_steps` refuse.
    """
    return count_high_noise_steps(make_sigmas(solver, steps, shift), boundary)


@dataclass(frozen=True, kw_only=True)
class ExpertPlan:
    """What a run over both experts will do, known before it starts."""

    steps_start: int = 0
    """First steps of high noise that are left to a model of their own."""
    steps_high: int
    steps_low: int
    switch_step: int
    """First step of the low-noise expert, counted from 0 within `sigmas`."""
    boundary: float
    sigmas: tuple[float, ...]

    @classmethod
    def of(cls, sigmas: Tensor, boundary: float, start: int = 0) -> "ExpertPlan":
        """Plans a falling schedule [N + 1]; an empty one has no steps.

        Args:
            sigmas: the schedule.
            boundary: noise level from which on the high-noise expert is used.
            start: first steps that are left to a model of their own, as far as they are high noise.

        Raises:
            SettingsError: if `boundary` is outside 0..1.
        """
        above = count_high_noise_steps(sigmas, boundary)
        steps_start = min(max(0, start), above)
        return cls(
            steps_start=steps_start,
            steps_high=above - steps_start,
            steps_low=max(0, len(sigmas) - 1) - above,
            switch_step=above,
            boundary=boundary,
            sigmas=tuple(sigmas.tolist()),
        )

    def describe(self) -> str:
        """Returns the split for people: "High 9 | Low 11", "First 1 | High 4 | Low 3"."""
        first = f"First {self.steps_start} | " if self.steps_start else ""
        return f"{first}High {self.steps_high} | Low {self.steps_low}"

    def warnings(self) -> list[str]:
        """Returns what is odd about the split of a full run; empty if nothing is."""
        if not self.switch_step + self.steps_low:
            return ["The schedule has no step. Raise steps or denoise, or widen the step range."]
        if not self.switch_step:
            return [
                f"The high-noise expert gets no step. The run begins at sigma "
                f"{self.sigmas[0]:.3f}, below the boundary {self.boundary:g}. "
                "Raise denoise or shift, or use the low-noise model alone."
            ]
        if not self.steps_low:
            return [
                f"The low-noise expert gets no step. The last call is at sigma "
                f"{self.sigmas[-2]:.3f}, above the boundary {self.boundary:g}. "
                "Raise steps or end_at_step, or lower the shift."
            ]
        if self.steps_low < 3 and self.switch_step + self.steps_low >= 8:
            return [
                f"The low-noise expert gets few steps. Got {self.steps_low} of "
                f"{self.switch_step + self.steps_low}, details need 3 or more. Lower the shift."
            ]
        return []
