"""What a tier of speed adds to the MODELs of a loader."""

from collections.abc import Iterable
from typing import Any

from ..wan_model.presets import Tier
from ..wan_model.sampling import StepCacheSettings
from ._comfy.model import facts
from ._comfy.model.computing import Computing
from ._comfy.model.load_models import SPEED
from ._comfy.sampling.step_cache_wrappers import IN_WINDOWS, with_step_cache


def at_tier(tier: Tier | None, model: Any) -> Any:
    """Returns a MODEL with the tier's step cache, if it has one; a node behind can replace it."""
    if tier is None:
        return model
    if tier.cache_threshold is not None:
        settings = StepCacheSettings(threshold=tier.cache_threshold)
        model = with_step_cache(model, settings, facts.model_facts(model).label, None)
    model.set_attachments(SPEED, tier.name)
    return model


def said_of(tier: Tier | None, found: Iterable[Computing]) -> list[str]:
    """Returns what a loader says of a tier, after the lines on matmuls and attention."""
    if tier is None:
        return []
    lines = (line.partition(":")[0] for one in found for line in one.matmuls)
    return [
        f"speed {tier.name}: {' and '.join(dict.fromkeys(lines))}, attention as above; {tier.steps}"
    ]


def nothing_skipped(
    tier: Tier | None, steps: int, guidance_scale: float, *, in_windows: bool
) -> list[str]:
    """Returns why the tier's step cache will skip nothing in a run, if that is so."""
    if tier is None or tier.cache_threshold is None:
        return []
    reason = StepCacheSettings(threshold=tier.cache_threshold).why_off(steps, guidance_scale)
    reason = IN_WINDOWS if in_windows else reason
    return [f"No step is skipped: {reason}"] if reason else []
