"""Keyframes of hooks over the switch to another expert."""

import math
from typing import Any

import torch
from torch import Tensor


def continue_keyframes(conds: dict[str, list[dict[str, Any]]], sigmas: Tensor, now: Tensor) -> None:
    """Brings the keyframes of conditionings' hooks to where the run is.

    ComfyUI sets them back to the first one whenever it prepares conditionings for a MODEL, and
    keeps each for a step at least: the next expert would begin with a strength of the past.

    Args:
        conds: prepared conditionings by name.
        sigmas: fp32 (N + 1,), of the whole run.
        now: fp32 (B,), the sigma of the call that comes next.
    """
    hooks = [
        hook
        for sides in conds.values()
        for c in sides
        if c.get("hooks")
        for hook in c["hooks"].hooks
    ]
    past = list(sigmas[sigmas > now.flatten()[0].to(sigmas)])
    if not past:
        return
    # They pass over the sigma that they saw last, which may be this one.
    past[0] = torch.nextafter(past[0], torch.full_like(past[0], math.inf))
    for keyframes in {id(hook.hook_keyframe): hook.hook_keyframe for hook in hooks}.values():
        for sigma in past:
            keyframes.prepare_current_keyframe(sigma, {"sample_sigmas": sigmas})
