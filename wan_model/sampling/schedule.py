"""Sigma schedules: the official lists of Wan2.2, and the slices that ComfyUI's samplers take.

A sample at noise level sigma is x = (1 - sigma) * x0 + sigma * noise. A schedule of N steps holds
N + 1 falling sigmas; the model is called at all but the last, which is 0 in a full schedule.

Sources: `wan/utils/fm_solvers_unipc.py` and `wan/utils/fm_solvers.py` of the official repository;
`KSampler` in ComfyUI's `comfy/samplers.py` for denoise and the step range. The arithmetic is
float64 in the official order, on which the last digit depends.
"""

import math
from collections.abc import Callable
from ctypes import c_float
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from ..config import TIMESTEPS
from ..errors import SettingsError

SolverName = Literal["unipc", "dpm++", "euler"]
SOLVERS: tuple[str, ...] = get_args(SolverName)


def shift_sigma(sigma: float, shift: float) -> float:
    """Moves a sigma towards 1 so that more steps are spent at high noise; shift 1 is identity."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def make_sigmas(solver: str, steps: int, shift: float) -> Tensor:
    """Returns the official schedule of a solver as fp32 [steps + 1], from high noise to 0.

    "unipc" starts just below the shifted 0.999, "dpm++" and "euler" at exactly 1.

    The list equals the official one bit by bit, but for rare entries that float64 rounding left
    one digit below a whole timestep (899.9999999999999, which is truncated to 899, for 900).
    Those are stored as the next lower fp32 number, so that `official_timestep` finds the official
    timestep from the list alone.

    Raises:
        SettingsError: for an unknown solver, fewer than one step, or a shift that is not above 0.
    """
    exact = _exact_sigmas(solver, steps, shift)
    return torch.tensor([*(_to_stored(sigma) for sigma in exact), 0.0], dtype=torch.float32)


def make_timesteps(solver: str, steps: int, shift: float) -> Tensor:
    """Returns the official timesteps of a solver, int64 [steps]: sigma * 1000, truncated.

    Neighbours may be equal in long schedules, so steps must be counted, never looked up.

    Raises:
        SettingsError: as `make_sigmas`.
    """
    exact = _exact_sigmas(solver, steps, shift)
    return torch.tensor([int(sigma * TIMESTEPS) for sigma in exact], dtype=torch.int64)


def official_timestep(sigma: float) -> int:
    """Returns the truncated timestep of an fp32 sigma: what model and expert switch are given.

    The official code truncates before it rounds sigma to fp32. To do so afterwards, timestep k
    counts as reached once sigma is at least the fp32 number nearest to k / 1000. The tolerance is
    thus half a unit in the last place of fp32, at most 3e-5 timesteps: 0.9 is stored as
    0.89999998 and yields 900, while the next lower fp32 number yields 899.
    """
    stored = _to_fp32(sigma)
    nearest = math.floor(stored * TIMESTEPS + 0.5)
    return nearest if _to_fp32(nearest / TIMESTEPS) <= stored else nearest - 1


MAX_STEPS = 100_000
"""Of a schedule of which the last steps are run: 1000 steps, the most a node takes, at 0.01."""


def schedule_for_denoise(make: Callable[[int], Tensor], steps: int, denoise: float) -> Tensor:
    """Returns the last `steps` steps of a schedule long enough to begin at noise level `denoise`.

    Args:
        make: returns the full schedule of a number of steps, such as
            `lambda steps: make_sigmas("unipc", steps, 5.0)`.
        steps: steps to run.
        denoise: 1 for the full schedule; the schedule of int(steps / denoise) steps is cut below
            1, as KSampler does; an empty list at 0.

    Raises:
        SettingsError: if that schedule would be absurdly long, or denoise is no number.
    """
    if not (denoise <= 0 or steps / denoise <= MAX_STEPS):
        raise SettingsError(
            f"The denoise cannot be used. Got {denoise:g} of {steps} steps, need 0, or a schedule "
            f"of at most {MAX_STEPS} steps. Raise denoise, or lower steps."
        )
    if denoise <= 0:
        return torch.empty(0)
    if denoise > 0.9999:
        return make(steps)
    return make(int(steps / denoise))[-(steps + 1) :]


def trim_steps(
    sigmas: Tensor, start_at_step: int, end_at_step: int, force_full_denoise: bool
) -> Tensor:
    """Returns the sigmas of steps start_at_step..end_at_step-1, as KSamplerAdvanced takes them.

    Args:
        sigmas: schedule, fp32 [N + 1]; not changed.
        start_at_step: first step to run, counted from 0.
        end_at_step: step to stop before; anything from N on means the end.
        force_full_denoise: replaces the last sigma of a list that was cut short by 0 ("return
            with leftover noise" disabled), so that its last step removes all noise.

    Returns:
        At least two sigmas, or an empty list if no step is left and the latent stays as it is.
    """
    kept = sigmas[: end_at_step + 1].clone()
    if force_full_denoise and len(kept) < len(sigmas):
        kept[-1] = 0.0
    return kept[start_at_step:] if start_at_step < len(kept) - 1 else kept[:0]


def check_sigmas(sigmas: Tensor) -> list[float]:
    """Returns a schedule as Python floats after making sure that a solver can run it.

    Raises:
        SettingsError: unless there are two or more sigmas, falling strictly, all within 0..1.
    """
    values: list[float] = sigmas.tolist()
    if len(values) < 2:
        raise SettingsError(
            f"The schedule has no step. Got {len(values)} sigmas, need at least 2. "
            "Raise steps or denoise, or widen the step range."
        )
    for index, (sigma, following) in enumerate(pairwise(values)):
        if not 1 >= sigma > following >= 0:
            raise SettingsError(
                f"The schedule cannot be solved. Got sigma {sigma:g} followed by {following:g} "
                f"at step {index}, need numbers that fall from at most 1 to at least 0. "
                "Use a scheduler made for flow models."
            )
    return values


def _exact_sigmas(solver: str, steps: int, shift: float) -> list[float]:
    """Returns the float64 sigmas of the model calls, without the final 0."""
    if solver not in SOLVERS:
        raise SettingsError(
            f"The solver is unknown. Got {solver!r}, need one of {', '.join(SOLVERS)}. Choose one."
        )
    if steps < 1:
        raise SettingsError(
            f"The number of steps cannot be used. Got {steps}, need 1 or more. Raise it."
        )
    if not 0 < shift < math.inf:
        raise SettingsError(
            f"The shift cannot be used. Got {shift:g}, need a number above 0. "
            "Use 12 for text-to-video, 5 for image-to-video."
        )
    # The official UniPC reads its first sigma back from an fp32 table of 1000 noise levels.
    start = _to_fp32(1 - 1 / TIMESTEPS) if solver == "unipc" else 1.0
    stride = -start / steps
    return [shift_sigma(index * stride + start, shift) for index in range(steps)]


def _to_stored(sigma: float) -> float:
    """Rounds to fp32, but never up to a timestep that the float64 number has not reached."""
    stored = _to_fp32(sigma)
    if official_timestep(stored) == int(sigma * TIMESTEPS):
        return stored
    return torch.nextafter(torch.tensor(stored), torch.tensor(0.0)).item()


def _to_fp32(value: float) -> float:
    """Rounds to the nearest fp32 number."""
    return c_float(value).value
