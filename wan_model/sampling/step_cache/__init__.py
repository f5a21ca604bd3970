"""Skips forward passes whose prediction hardly differs from an earlier one."""

from .cache import (
    STEP_CACHE_METHODS,
    Prediction,
    StepCache,
    StepCacheReport,
    StepCacheSettings,
)

__all__ = [
    "STEP_CACHE_METHODS",
    "Prediction",
    "StepCache",
    "StepCacheReport",
    "StepCacheSettings",
]
