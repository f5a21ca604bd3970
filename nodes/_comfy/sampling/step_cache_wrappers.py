"""A step cache on a MODEL of any loader, through ComfyUI's wrappers.

It sits where the predictions of all conditionings come together, so it does not matter whether
they are run in one batch or one after the other, nor which loader made the model. Every run has a
cache of its own, which travels in the run's model options: the MODEL itself holds no state.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....wan_model.sampling import Prediction, StepCache, StepCacheSettings
from ..host import runtime

KEY = "wanduet.step_cache"
"""Of the wrappers on a MODEL, and of the running cache in model options."""

IN_WINDOWS = "context windows run the model on another part of the video each time"
"""Why nothing is reused there."""


@dataclass(frozen=True)
class StepCaching:
    """The two wrappers of one MODEL."""

    settings: StepCacheSettings
    label: str
    """Of the model, for people."""
    node_id: str | None
    """The node that shows what was skipped; None: no node asked for it, and only the sampler's
    report has what it skipped."""

    def outer_sample(
        self,
        executor: Any,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Gives a run its cache, and takes it away at the end however the run ends."""
        guider = executor.class_obj
        call = (noise, latent_image, sampler, sigmas, *args)
        options = guider.model_options
        reason = self.settings.why_off(len(sigmas) - 1, guider.cfg)
        if options.get("context_handler") is not None:
            reason = IN_WINDOWS
        if reason:
            if self.node_id is not None:
                self._show(f"nothing is skipped: {reason}")
            return executor(*call, **kwargs)
        cache = StepCache(self.settings, sigmas.tolist(), guider.cfg)
        guider.model_options = {**options, KEY: cache}
        try:
            result = executor(*call, **kwargs)
        finally:
            guider.model_options = options
            cache.reset()
        self._show(str(cache.report))
        return result

    def calc_cond_batch(
        self,
        executor: Any,
        model: Any,
        conds: list[Any],
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any],
    ) -> list[Tensor]:
        """Returns denoised predictions [cond, uncond], computed or reused.

        Calls of other guidance methods have another number of predictions; they are computed.
        """
        cache: StepCache | None = model_options.get(KEY)
        if cache is None or len(conds) != 2 or conds[0] is None:
            return executor(model, conds, x, timestep, model_options)
        cond, uncond = conds

        def evaluate(with_uncond: bool) -> Prediction:
            both = [cond, uncond if with_uncond else None]
            out = executor(model, both, x, timestep, model_options)
            return Prediction(out[0], None if both[1] is None else out[1])

        sigma = timestep.flatten()[0].item()
        found = cache.predict(x, sigma, evaluate, (_active(cond, sigma), _active(uncond, sigma)))
        return [found.cond, torch.zeros_like(x) if found.uncond is None else found.uncond]

    def _show(self, text: str) -> None:
        runtime.show(self.node_id, f"{self.label}: {text}")


def with_step_cache(
    model: ModelPatcher, settings: StepCacheSettings, label: str, node_id: str | None
) -> ModelPatcher:
    """Returns a clone of a MODEL with a step cache, instead of one it may have already."""
    cached = model.clone()
    caching = StepCaching(settings, label, node_id)
    for kind, wrapper in (
        (WrappersMP.OUTER_SAMPLE, caching.outer_sample),
        (WrappersMP.CALC_COND_BATCH, caching.calc_cond_batch),
    ):
        cached.remove_wrappers_with_key(kind, KEY)
        cached.add_wrapper_with_key(kind, KEY, wrapper)
    return cached


def _active(conds: list[dict[str, Any]] | None, sigma: float) -> tuple[Any, ...] | None:
    """Returns what identifies the conditionings that take part at a noise level."""
    if conds is None:
        return None
    return tuple(
        cond["uuid"]
        for cond in conds
        if cond.get("timestep_end", 0.0) <= sigma <= cond.get("timestep_start", math.inf)
    )
