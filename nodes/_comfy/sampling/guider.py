"""One trajectory over two experts: a GUIDER that gives every model call to the right one.

The sampler runs once, over all steps, and knows nothing of experts. Each call is routed by its
sigma; at a switch the other model is brought to the device and the conditionings are prepared
for it. Multistep solvers keep their history. The first steps may have a model of their own, such as
the high-noise expert without its LoRA: then a run has three phases.
"""

from dataclasses import dataclass, field
from typing import Any

import comfy.model_patcher
import comfy.sampler_helpers
import comfy.samplers
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor

from ....wan_model.errors import NotFiniteError, SettingsError
from ....wan_model.sampling import is_high_noise
from ..model.patcher import WanPatcher, shares_memory
from .hook_keyframes import continue_keyframes
from .run_watch import RunWatch
from .samplers import TRUNCATE

SAMPLER_HOOKS = ("sampler_post_cfg_function", "sampler_pre_cfg_function")
"""Lists in model_options that a sampler may extend for its own run."""

BLACK = {
    "start": "model of the first steps",
    "high": "high-noise model",
    "low": "low-noise model",
    "only": "model",
}

LATER = 1 << 20
"""Forward passes from now: a number that is never reached."""


@dataclass(frozen=True)
class Expert:
    """A model and its guidance scale."""

    patcher: comfy.model_patcher.ModelPatcher
    cfg: float
    name: str = "only"
    """A key of `run_watch.NAMES`."""

    @property
    def passes(self) -> int:
        """Forward passes in one call: guidance needs a second one, without the prompt."""
        return 1 if self.cfg == 1 else 2


@dataclass(frozen=True)
class Start:
    """What the first steps of a run are left to, as far as they are high noise."""

    expert: Expert
    steps: int


@dataclass
class _Run:
    """What conditionings are prepared from, for every expert, and who is on the device."""

    noise: Tensor
    latent_image: Tensor | None
    denoise_mask: Tensor | None
    seed: int | None
    sigmas: Tensor
    extra: dict[str, Any]
    """Arguments that newer cores add."""
    active: Expert
    ready: list[Expert] = field(default_factory=list)
    """Experts beside the first whose conditionings are prepared."""
    checked: list[Expert] = field(default_factory=list)
    """Experts whose predictions are known to be finite."""


class MoEGuider(comfy.samplers.CFGGuider):
    """Classifier-free guidance with one model per range of noise."""

    def __init__(
        self,
        high: Expert,
        low: Expert | None,
        boundary: float,
        heading: str = "",
        start: Start | None = None,
    ) -> None:
        """Takes the experts.

        Args:
            high: expert for high noise, or the only model.
            low: expert for low noise, or None.
            boundary: noise level from which on the high-noise expert is used, 0 to 1.
            heading: what the running node says above the plan of memory.
            start: what the first steps are left to.
        """
        super().__init__(high.patcher)
        self.heading = heading
        self.levels: list[float] = []
        """Sigmas that the sampler is to visit."""
        self.passes: int | None = None
        """Forward passes of the weights engine before the previous call of this run."""
        self.high, self.low, self.boundary = high, low, boundary
        self.start = start if start is not None and start.steps > 0 else None
        self.start_above = 1.0
        """Sigma above which the run is the start's."""
        self.first = high
        self.others: dict[Expert, comfy.samplers.CFGGuider] = {}
        """Core's guiders of the experts that are not first; records of their prepared parts."""
        self.run: _Run | None = None
        self.watch: RunWatch | None = None
        """What times the next run."""

    def expert(self, sigma: float) -> Expert:
        """Returns the expert of a noise level; equality with the boundary is high noise."""
        if self.low is not None and not is_high_noise(sigma, self.boundary):
            return self.low
        if self.start is not None and sigma > self.start_above:
            return self.start.expert
        return self.high

    @property
    def experts(self) -> list[Expert]:
        """Those of a run, in order."""
        every = [None if self.start is None else self.start.expert, self.high, self.low]
        return [expert for expert in every if expert is not None]

    def names_of_steps(self, sigmas: Tensor) -> list[str]:
        """Returns which expert each step of a run belongs to, by name."""
        self._see(sigmas)
        return [self.expert(sigma).name for sigma in sigmas[:-1].tolist()]

    def _see(self, sigmas: Tensor) -> None:
        """Finds out where the start ends in a schedule."""
        if self.start is not None and len(sigmas):
            self.start_above = float(sigmas[min(self.start.steps, len(sigmas) - 1)])

    def sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Samples as core's guider does. Only experts that the sigmas call for are loaded."""
        self._see(sigmas)
        self.first = self.expert(float(sigmas[0])) if len(sigmas) else self.high
        self.model_patcher, self.cfg = self.first.patcher, self.first.cfg
        self.model_options = self.first.patcher.model_options
        self.levels, self.passes = sigmas[:-1].tolist(), None
        self._tell_pools(running=True)
        try:
            return super().sample(noise, latent_image, sampler, sigmas, *args, **kwargs)
        finally:
            self._release()
            self._tell_pools(running=False)

    def outer_sample(self, *args: Any, **kwargs: Any) -> Tensor:
        """Samples within what other nodes put around any expert's run, such as a step cache."""
        sample = super().outer_sample
        for expert in reversed([one for one in self.experts if one is not self.first]):
            other = self.others[expert] = self._prepare(expert)
            wrappers = get_all_wrappers(
                WrappersMP.OUTER_SAMPLE, other.model_options, is_model_options=True
            )
            sample = WrapperExecutor.new_class_executor(sample, other, wrappers).execute
        return sample(*args, **kwargs)

    def inner_sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        device: Any,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None,
        callback: Any,
        disable_pbar: bool,
        seed: int | None,
        **extra: Any,
    ) -> Tensor:
        """Remembers what the other experts' conditionings need, then samples."""
        known = latent_image
        if latent_image is not None and latent_image.any():
            known = self.inner_model.process_latent_in(latent_image)
        self.run = _Run(noise, known, denoise_mask, seed, sigmas, extra, self.first)
        rest = (denoise_mask, callback, disable_pbar, seed)
        if self.watch is not None:
            self.watch.start()
        here = self.first.patcher.load_device
        for patcher in (expert.patcher for expert in (*self.experts, self.first)):
            if isinstance(patcher, WanPatcher) and patcher.load_device == here:
                patcher.pool.under_way = True
        return super().inner_sample(noise, latent_image, device, sampler, sigmas, *rest, **extra)

    def outer_predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: Any = None, seed: int | None = None
    ) -> Tensor:
        """Returns the guided prediction of the expert that sigma `timestep` belongs to.

        Raises:
            NotFiniteError: after an expert's first step, if the video would become black.
        """
        assert self.run is not None
        sigma = timestep.flatten()[0].item()
        expert = self.expert(sigma)
        self._announce(expert, sigma)
        prediction = self._predict(expert, x, timestep, model_options or {}, seed)
        if expert not in self.run.checked:
            self.run.checked.append(expert)
            self._check(expert, prediction)
        return prediction

    def _predict(
        self,
        expert: Expert,
        x: Tensor,
        timestep: Tensor,
        options: dict[str, Any],
        seed: int | None,
    ) -> Tensor:
        """Returns the guided prediction of an expert, which is brought to the device first."""
        run, other = self.run, self.others.get(expert, self)
        assert run is not None
        if run.active is not expert:
            self._tell_passes(expert)
            loaded = _bring(expert.patcher, run.noise, other.conds, other.model_options)
            if other is not self:
                other.loaded_models = loaded
            run.active = expert
        if other is self:
            return super().outer_predict_noise(x, timestep, options, seed)
        if expert not in run.ready:
            _make_ready(other, run)
            continue_keyframes(other.conds, run.sigmas, timestep)
            run.ready.append(expert)
        options = _with_additions(other.model_options, options, self.first.patcher.model_options)
        there = other.model_patcher.load_device
        predicted = other.outer_predict_noise(x.to(there), timestep.to(there), options, seed)
        return predicted.to(x.device)

    def _check(self, expert: Expert, prediction: Tensor) -> None:
        """Refuses a prediction with NaN or infinity; looking waits for the device."""
        if prediction.isfinite().all():
            return
        raise NotFiniteError(
            "The video would become black. Got NaN or infinity in the first step of the "
            f"{BLACK[expert.name]}, need finite numbers. Choose bf16 or fp32 as the "
            "loader's precision; if it has that already, try without LoRAs, then download the "
            "model again."
        )

    def _announce(self, expert: Expert, sigma: float) -> None:
        """Tells a weights engine that runs both experts when the other one's turn is."""
        if not isinstance(expert.patcher, WanPatcher):
            return
        pool, number = expert.patcher.pool, expert.patcher.model.expert
        # A step cache may have left the previous call without any.
        passes = expert.passes if self.passes is None else max(1, pool.passes - self.passes)
        self.passes = pool.passes
        # After the last step the next run begins, most likely one like this.
        following = [level for level in self.levels if level < sigma] or self.levels[:1]
        for distance, level in enumerate(following):
            other = self.expert(level).patcher
            if shares_memory(expert.patcher, other) and other.model.expert != number:
                pool.expect(other.model.expert, passes if distance == 0 else LATER)
                return

    def _tell_pools(self, *, running: bool) -> None:
        """Tells weights engines what to show above their plan, and how many passes make a step."""
        for expert in (*self.experts, self.first):
            if isinstance(expert.patcher, WanPatcher):
                pool, number = expert.patcher.pool, expert.patcher.model.expert
                pool.heading, pool.under_way = self.heading if running else "", False
                pool.step_passes[number] = expert.passes if running else None

    def _tell_passes(self, expert: Expert) -> None:
        """Start and high-noise expert may be one model to the engine, with other passes."""
        if isinstance(expert.patcher, WanPatcher):
            expert.patcher.pool.step_passes[expert.patcher.model.expert] = expert.passes

    def _prepare(self, expert: Expert) -> comfy.samplers.CFGGuider:
        """Does for another expert what core's guider did for the first, up to loading it."""
        guider = comfy.samplers.CFGGuider(expert.patcher)
        guider.set_cfg(expert.cfg)
        guider.conds = {k: [cond.copy() for cond in c] for k, c in self.original_conds.items()}
        comfy.samplers.preprocess_conds_hooks(guider.conds)
        options = comfy.model_patcher.create_model_options_clone(expert.patcher.model_options)
        comfy.sampler_helpers.prepare_model_patcher(expert.patcher, guider.conds, options)
        comfy.samplers.filter_registered_hooks_on_conds(guider.conds, options)
        guider.model_options = options
        return guider

    def _release(self) -> None:
        """Cleans up after the other experts, as core's guider does after the first."""
        others, run = self.others, self.run
        self.others, self.run = {}, None
        for expert, other in others.items():
            patcher = other.model_patcher
            if run is not None and expert in run.ready:
                patcher.cleanup()
                comfy.sampler_helpers.cleanup_models(other.conds, other.loaded_models)
            comfy.samplers.cast_to_load_options(other.model_options, device=patcher.offload_device)
            patcher.restore_hook_patches()


def check_windows(
    high: comfy.model_patcher.ModelPatcher, start: comfy.model_patcher.ModelPatcher
) -> None:
    """Refuses context windows on one of the two alone: a long video would be seen whole.

    Raises:
        SettingsError: names the model without them.
    """
    has = [bool(one.model_options.get("context_handler")) for one in (high, start)]
    if has[0] != has[1]:
        names = ("model_high", "model_start") if has[0] else ("model_start", "model_high")
        raise SettingsError(
            f"Context windows are on one model alone. Got them on {names[0]} and not on "
            f"{names[1]}, need both or none. Connect 'Wan 2.2 Context Windows' before {names[1]}, "
            "too, or take it out."
        )


def _bring(
    patcher: comfy.model_patcher.ModelPatcher, noise: Tensor, conds: Any, model_options: Any
) -> list[Any]:
    """Loads an expert's weights; ComfyUI makes room by moving the other's away."""
    loaded = comfy.sampler_helpers.prepare_sampling(patcher, noise.shape, conds, model_options)
    return loaded[2]


def _make_ready(other: comfy.samplers.CFGGuider, run: _Run) -> None:
    """Prepares another, loaded expert and its conditionings for calls within the run."""
    patcher, options = other.model_patcher, other.model_options
    device = patcher.load_device
    noise, image, mask = (
        None if one is None else one.to(device)
        for one in (run.noise, run.latent_image, run.denoise_mask)
    )
    comfy.samplers.cast_to_load_options(options, device=device, dtype=patcher.model_dtype())
    options.setdefault("transformer_options", {})["sample_sigmas"] = run.sigmas
    other.inner_model = patcher.model
    if hasattr(other.inner_model, "latent_shapes"):
        other.inner_model.latent_shapes = run.extra.get("latent_shapes")
    patcher.pre_run()
    other.conds = comfy.samplers.process_conds(
        other.inner_model,
        noise,
        other.conds,
        device,
        image,
        mask,
        run.seed,
        **run.extra,
    )


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
