"""The shift that a run sees: that of its schedule, whatever the MODEL had before."""

import copy
from typing import Any

import comfy.model_sampling
from comfy.model_patcher import ModelPatcher

from ....wan_model.config import TIMESTEPS

MODEL_SAMPLING = "model_sampling"
"""ComfyUI's name for what turns percents, timesteps and noise levels into each other."""


def shifts_in_front(*patchers: ModelPatcher | None) -> list[float]:
    """Returns the shifts that nodes in front of the sampler gave to MODELs, each once."""
    patches = [p.object_patches.get(MODEL_SAMPLING) for p in patchers if p is not None]
    return list(dict.fromkeys(float(patch.shift) for patch in patches if _is_flow(patch)))


def sampling_in_front(patcher: ModelPatcher) -> str | None:
    """Returns the name of a sampling that has another meaning than Wan's, and so no effect."""
    patch = patcher.object_patches.get(MODEL_SAMPLING)
    if patch is None or _is_flow(patch):
        return None
    named = (
        kind.__name__
        for kind in type(patch).__mro__
        if kind.__module__ == comfy.model_sampling.__name__
    )
    return next(named, type(patch).__name__)


def at_shift(patcher: ModelPatcher, shift: float) -> ModelPatcher:
    """Returns a MODEL for one run, in which percents and samplers follow the run's shift.

    Ranges of conditionings, keyframes of hooks and samplers that think in signal to noise ask the
    MODEL for it. It is a clone, as core's ModelSamplingSD3 makes one; the given one is left as it
    is.
    """
    sampling = patcher.get_model_object(MODEL_SAMPLING)
    if not _is_flow(sampling) or sampling.shift == shift:
        return patcher
    shifted = copy.deepcopy(sampling)
    shifted.set_parameters(shift=shift, multiplier=sampling.multiplier)
    clone = patcher.clone()
    clone.add_object_patch(MODEL_SAMPLING, shifted)
    return clone


def _is_flow(sampling: Any) -> bool:
    flow = isinstance(sampling, comfy.model_sampling.ModelSamplingDiscreteFlow)
    return flow and sampling.multiplier == TIMESTEPS
