"""Schedules, expert switch, guidance, step caches and the official solvers."""

from .experts import ExpertPlan, count_high_noise_steps, expert_split, is_high_noise
from .free_noise import free_noise
from .schedule import (
    SOLVERS,
    SolverName,
    check_sigmas,
    make_sigmas,
    make_timesteps,
    official_timestep,
    schedule_for_denoise,
    shift_sigma,
    trim_steps,
)
from .solvers import (
    Solver,
    StepCallback,
    VelocityFn,
    guide,
    make_solver,
    model_timestep,
    solve,
)
from .step_cache import (
    STEP_CACHE_METHODS,
    Prediction,
    StepCache,
    StepCacheReport,
    StepCacheSettings,
)

__all__ = [
    "SOLVERS",
    "STEP_CACHE_METHODS",
    "ExpertPlan",
    "Prediction",
    "Solver",
    "SolverName",
    "StepCache",
    "StepCacheReport",
    "StepCacheSettings",
    "StepCallback",
    "VelocityFn",
    "check_sigmas",
    "count_high_noise_steps",
    "expert_split",
    "free_noise",
    "guide",
    "is_high_noise",
    "make_sigmas",
    "make_solver",
    "make_timesteps",
    "model_timestep",
    "official_timestep",
    "schedule_for_denoise",
    "shift_sigma",
    "solve",
    "trim_steps",
]
