"""What a tier of speed means for what a loader leaves open, on this machine."""

from collections.abc import Iterable
from typing import Any

import torch

from ..wan_model.attention import AttentionFn
from ..wan_model.errors import BackendError
from ..wan_model.presets import AUTO, Tier
from ..wan_model.sampling import StepCacheSettings
from ._comfy.model import facts
from ._comfy.model.attention_choice import choose
from ._comfy.model.load_models import SPEED
from ._comfy.sampling.step_cache_wrappers import with_step_cache


def attention_at(
    tier: Tier | None,
    attention: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    trained_sparse: bool,
) -> tuple[AttentionFn, str]:
    """Returns the attention of a loader, with "auto" as the tier has it, and what is said of it.

    Raises:
        BackendError: if what was chosen by name cannot run here.
    """
    names = tier.attention if tier is not None and attention == AUTO else (attention,)
    for name in names[:-1]:
        try:
            return choose(name, device, dtype, trained_sparse=trained_sparse)
        except BackendError:
            continue
    return choose(names[-1], device, dtype, trained_sparse=trained_sparse)


def at_tier(tier: Tier | None, model: Any) -> Any:
    """Returns a MODEL with the tier's step cache, if it has one; a node behind can replace it."""
    if tier is None:
        return model
    if tier.cache_threshold is not None:
        settings = StepCacheSettings(threshold=tier.cache_threshold)
        model = with_step_cache(model, settings, facts.model_facts(model).label, None)
    model.set_attachments(SPEED, tier.name)
    return model


def said_of(tier: Tier | None, matmuls: Iterable[str]) -> list[str]:
    """Returns what a loader says of a tier, after the lines on matmuls and attention."""
    if tier is None:
        return []
    formats = " and ".join(dict.fromkeys(line.partition(":")[0] for line in matmuls))
    return [f"speed {tier.name}: {formats}, attention as above; {tier.steps}"]
