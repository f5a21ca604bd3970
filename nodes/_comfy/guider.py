"""One trajectory over two experts: a GUIDER that gives every model call to the right one.

The sampler runs once, over all steps, and knows nothing of experts. Each call is routed by its
sigma; at the switch the other model is brought to the device and the conditionings are prepared
for it. Multistep solvers keep their history.
"""

from dataclasses import dataclass
from typing import Any

import comfy.model_patcher
import comfy.sampler_helpers
import comfy.samplers
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...wan_model.sampling import is_high_noise
from .sampling import TRUNCATE

SAMPLER_HOOKS = ("sampler_post_cfg_function", "sampler_pre_cfg_function")
"""Lists in model_options that a sampler may extend for its own run."""


@dataclass(frozen=True)
class Expert:
    """A model and its guidance scale."""

    patcher: comfy.model_patcher.ModelPatcher
    cfg: float


@dataclass
class _Run:
    """What conditionings are prepared from, for either expert, and who is on the device."""

    noise: Tensor
    latent_image: Tensor | None
    device: Any
    denoise_mask: Tensor | None
    seed: int | None
    sigmas: Tensor
    extra: dict[str, Any]
    """Arguments that newer cores add."""
    first: Expert
    active: Expert
    other: comfy.samplers.CFGGuider | None = None
    """Core's guider of the expert that came second; used as a record of its prepared parts."""


class MoEGuider(comfy.samplers.CFGGuider):
    """Classifier-free guidance with one model per range of noise."""

    def __init__(self, high: Expert, low: Expert | None, boundary: float) -> None:
        """Takes the experts.

        Args:
            high: expert for high noise, or the only model.
            low: expert for low noise, or None.
            boundary: noise level from which on the high-noise expert is used, 0 to 1.
        """
        super().__init__(high.patcher)
        self.high, self.low, self.boundary = high, low, boundary
        self.run: _Run | None = None

    def expert(self, sigma: float) -> Expert:
        """Returns the expert of a noise level; equality with the boundary is high noise."""
        if self.low is None or is_high_noise(sigma, self.boundary):
            return self.high
        return self.low

    def sample(self, noise: Tensor, latent_image: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # fmt: skip
        """Samples as core's guider does. Only experts that the sigmas call for are loaded."""
        first = self.expert(float(sigmas[0])) if len(sigmas) else self.high
        self.model_patcher, self.cfg = first.patcher, first.cfg
        self.model_options = first.patcher.model_options
        try:
            return super().sample(noise, latent_image, sampler, sigmas, *args, **kwargs)
        finally:
            self._release()

    def inner_sample(self, noise: Tensor, latent_image: Tensor, device: Any, sampler: Any, sigmas: Tensor, denoise_mask: Tensor | None, callback: Any, disable_pbar: bool, seed: int | None, **extra: Any) -> Tensor:  # fmt: skip
        """Remembers what the second expert's conditionings need, then samples."""
        known = latent_image
        if latent_image is not None and latent_image.any():
            known = self.inner_model.process_latent_in(latent_image)
        first = self.expert(float(sigmas[0]))
        self.run = _Run(noise, known, device, denoise_mask, seed, sigmas, extra, first, first)
        rest = (denoise_mask, callback, disable_pbar, seed)
        return super().inner_sample(noise, latent_image, device, sampler, sigmas, *rest, **extra)

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: Any = None, seed: int | None = None) -> Tensor:  # fmt: skip
        """Returns the guided prediction of the expert that sigma `timestep` belongs to."""
        run = self.run
        assert run is not None
        options = model_options or {}
        expert = self.expert(timestep.flatten()[0].item())
        if expert is run.first:
            if run.active is not expert:
                self._bring(expert, self.conds, options)
                run.active = expert
            return super().predict_noise(x, timestep, options, seed)
        if run.active is not expert:
            run.other = run.other or self._prepare(expert, run)
            self._bring(expert, run.other.conds, run.other.model_options)
            run.active = expert
        assert run.other is not None
        base = run.first.patcher.model_options
        options = _with_additions(run.other.model_options, options, base)
        return run.other.predict_noise(x, timestep, options, seed)

    def _bring(self, expert: Expert, conds: Any, model_options: Any) -> list[Any]:
        """Loads an expert's weights; ComfyUI makes room by moving the other's away."""
        assert self.run is not None
        shape = self.run.noise.shape
        _, _, extra_models = comfy.sampler_helpers.prepare_sampling(
            expert.patcher, shape, conds, model_options
        )
        return extra_models

    def _prepare(self, expert: Expert, run: _Run) -> comfy.samplers.CFGGuider:
        """Does for the second expert what core's guider did for the first."""
        guider = comfy.samplers.CFGGuider(expert.patcher)
        guider.set_cfg(expert.cfg)
        conds = {k: [cond.copy() for cond in c] for k, c in self.original_conds.items()}
        comfy.samplers.preprocess_conds_hooks(conds)
        options = comfy.model_patcher.create_model_options_clone(expert.patcher.model_options)
        comfy.sampler_helpers.prepare_model_patcher(expert.patcher, conds, options)
        comfy.samplers.filter_registered_hooks_on_conds(conds, options)
        dtype = expert.patcher.model_dtype()
        comfy.samplers.cast_to_load_options(options, device=run.device, dtype=dtype)
        options.setdefault("transformer_options", {})["sample_sigmas"] = run.sigmas
        guider.loaded_models = self._bring(expert, conds, options)
        guider.model_options = options
        guider.inner_model = expert.patcher.model
        if hasattr(guider.inner_model, "latent_shapes"):
            guider.inner_model.latent_shapes = run.extra.get("latent_shapes")
        expert.patcher.pre_run()
        guider.conds = comfy.samplers.process_conds(
            guider.inner_model,
            run.noise,
            conds,
            run.device,
            run.latent_image,
            run.denoise_mask,
            run.seed,
            **run.extra,
        )
        return guider

    def _release(self) -> None:
        """Cleans up after the second expert, as core's guider does after the first."""
        other = self.run.other if self.run else None
        self.run = None
        if other is None:
            return
        patcher = other.model_patcher
        patcher.cleanup()
        comfy.sampler_helpers.cleanup_models(other.conds, other.loaded_models)
        comfy.samplers.cast_to_load_options(other.model_options, device=patcher.offload_device)
        patcher.restore_hook_patches()


def _with_additions(
    own: dict[str, Any], passed: dict[str, Any], base: dict[str, Any]
) -> dict[str, Any]:
    """Returns options `own` with what the running sampler added to `base` to get `passed`."""
    options = comfy.model_patcher.create_model_options_clone(own)
    for name in SAMPLER_HOOKS:
        added = [hook for hook in passed.get(name, []) if hook not in base.get(name, [])]
        if added:
            options[name] = [*options.get(name, []), *added]
    if passed.get("disable_cfg1_optimization"):
        options["disable_cfg1_optimization"] = True
    kind = WrappersMP.DIFFUSION_MODEL
    wrappers = passed.get("transformer_options", {}).get("wrappers", {}).get(kind, {})
    if TRUNCATE in wrappers:
        target = options.setdefault("transformer_options", {}).setdefault("wrappers", {})
        target.setdefault(kind, {})[TRUNCATE] = wrappers[TRUNCATE]
    return options
