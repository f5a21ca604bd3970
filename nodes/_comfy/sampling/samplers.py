"""Samplers and schedules: the official ones as ComfyUI objects, beside all of core's."""

from collections.abc import Sequence
from typing import Any

import comfy.model_patcher
import comfy.model_sampling
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor
from tqdm.auto import trange

from ....wan_model.config import TIMESTEPS
from ....wan_model.sampling import (
    SOLVERS,
    make_sigmas,
    make_solver,
    official_timestep,
    schedule_for_denoise,
)

TRUNCATE = "wanduet.truncate_timesteps"
"""Key of the wrapper that gives the model whole timesteps."""

PURE_NOISE_SIGMA = 0.999
"""From here on a run starts from plain noise. UniPC's first sigma is just below 1 by definition;
the official code does not scale the noise by it."""


def sampler_names() -> list[str]:
    """Returns the official solvers, then every core sampler."""
    core = comfy.samplers.KSampler.SAMPLERS
    return [*SOLVERS, *(name for name in core if name not in SOLVERS)]


def scheduler_names() -> list[str]:
    """Returns "wan", then every core scheduler."""
    return ["wan", *comfy.samplers.KSampler.SCHEDULERS]


def make_sampler(name: str) -> comfy.samplers.Sampler:
    """Returns the SAMPLER object of a name in `sampler_names`."""
    return OfficialSampler(name) if name in SOLVERS else comfy.samplers.sampler_object(name)


def make_schedule(
    sampler: str,
    scheduler: str,
    steps: int,
    shift: float,
    denoise: float,
    levels: Sequence[float] | None = None,
) -> Tensor:
    """Returns the sigmas fp32 [N + 1] of a run.

    Args:
        sampler: decides the official list of scheduler "wan": UniPC's own, or that of DPM++.
        scheduler: "wan" or a core scheduler, which then works on Wan's sigmas with this shift.
        steps: steps to run.
        shift: of the noise schedule.
        denoise: 1 for a full run; below 1 the last part of a longer schedule, as in KSampler.
        levels: the sigmas themselves, in the place of a schedule.
    """
    if levels is not None:
        return torch.tensor(levels, dtype=torch.float32)

    def whole(total: int) -> Tensor:
        if scheduler == "wan":
            return make_sigmas("unipc" if sampler == "unipc" else "dpm++", total, shift)
        extra = sampler in comfy.samplers.KSampler.DISCARD_PENULTIMATE_SIGMA_SAMPLERS
        flow = FlowSampling()
        flow.set_parameters(shift=shift, multiplier=1000)
        sigmas = comfy.samplers.calculate_sigmas(flow, scheduler, total + extra)
        return torch.cat((sigmas[:-2], sigmas[-1:])) if extra else sigmas

    return schedule_for_denoise(whole, steps, denoise)


class FlowSampling(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
    """Core's arithmetic of flow models."""


class OfficialSampler(comfy.samplers.KSAMPLER):
    """UniPC, DPM++ or Euler of the official code, as a SAMPLER for any guider and model.

    The solver runs once over all steps, so that its history survives the switch of experts.
    """

    def __init__(self, name: str) -> None:
        super().__init__(self._run)
        self.name = name

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Samples as every KSAMPLER does, except for timesteps and the start from plain noise."""
        options = comfy.model_patcher.create_model_options_clone(extra_args["model_options"])
        if self.name != "euler":
            add_wrapper_with_key(
                WrappersMP.DIFFUSION_MODEL, TRUNCATE, self._truncate, options, is_model_options=True
            )
        if float(sigmas[0]) >= PURE_NOISE_SIGMA and latent_image is not None and noise.any():
            # noise_scaling gives sigma * n + (1 - sigma) * latent; this n makes it plain noise.
            noise = (noise - (1 - sigmas[0]) * latent_image) / sigmas[0]
        extra_args = {**extra_args, "model_options": options}
        return super().sample(
            model_wrap,
            sigmas,
            extra_args,
            callback,
            noise,
            latent_image,
            denoise_mask,
            disable_pbar,
        )

    def _truncate(
        self,
        executor: Any,
        x: Tensor,
        timestep: Tensor,
        context: Any = None,
        clip_fea: Any = None,
        time_dim_concat: Any = None,
        transformer_options: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        """Runs the model on the official whole timestep, times each frame's part of it."""
        sigma = transformer_options["sigmas"][0]
        part = timestep / (sigma * TIMESTEPS)
        whole = official_timestep(sigma.item())
        rest = (context, clip_fea, time_dim_concat, transformer_options)
        return executor(x, part * whole, *rest, **kwargs)

    def _run(
        self,
        model: Any,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Any = None,
        disable: bool | None = None,
    ) -> Tensor:
        solver = make_solver(self.name, sigmas)
        ones = x.new_ones(x.shape[0])
        for i in trange(len(sigmas) - 1, disable=disable):
            denoised = model(x, sigmas[i] * ones, **(extra_args or {}))
            if callback is not None:
                callback({"x": x, "i": i, "sigma": sigmas[i], "denoised": denoised})
            x = solver.step(i, denoised, x)
        return x
