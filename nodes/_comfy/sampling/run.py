"""Runs a guider and a sampler on a LATENT, as core's sampler nodes do."""

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .latent_video import LatentVideo, latent_video
from .run_watch import RunWatch

LARGEST_SEED = 2**64 - 3
"""Samplers that add noise take the next seed for it, which must be one, and not that of `noise`."""


def as_video(model: ModelPatcher, latent: dict[str, Any]) -> dict[str, Any]:
    """Returns a LATENT of a video; one of an image becomes one frame, as in core's samplers.

    An empty image may have the channels of another model; it gets those of this one.
    """
    samples: Tensor = latent["samples"]
    if samples.ndim != 4:
        return latent
    return {**latent, "samples": comfy.sample.fix_empty_latent_channels(model, samples)}


def sample_latent(
    guider: comfy.samplers.CFGGuider,
    sampler: comfy.samplers.Sampler,
    sigmas: Tensor,
    latent: dict[str, Any],
    *,
    seed: int,
    add_noise: bool,
    watch: RunWatch | None = None,
) -> dict[str, Any]:
    """Returns the sampled LATENT. Progress and previews count all steps of the run.

    Args:
        guider: what predicts.
        sampler: what integrates.
        sigmas: fp32 [N + 1]; an empty list leaves the latent as it is.
        latent: samples (B, C, T, H, W), optional noise_mask and batch_index; not changed.
        seed: of the noise, made on the CPU like everywhere in ComfyUI.
        add_noise: False if the latent already holds the noise of sigmas[0].
        watch: what times the run, if anything does.
    """
    samples: Tensor = latent["samples"]
    if len(sigmas) < 2:
        return dict(latent)
    if add_noise:
        noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    else:
        noise = torch.zeros_like(samples, device="cpu")
    video = latent_video(guider.model_patcher)
    callback = _callback(guider.model_patcher, len(sigmas) - 1, video, watch)
    try:
        result = guider.sample(
            noise,
            samples,
            sampler,
            sigmas,
            denoise_mask=latent.get("noise_mask"),
            callback=callback,
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=min(seed, LARGEST_SEED),
        )
    finally:
        if video is not None:
            video.end()
    return {**latent, "samples": result.to(comfy.model_management.intermediate_device())}


def _callback(
    patcher: ModelPatcher, steps: int, video: LatentVideo | None, watch: RunWatch | None
) -> Callable[[int, Tensor, Tensor, int], None]:
    """Returns what samplers call after each step: progress as in core, with our preview or its."""
    core = None if video is not None else latent_preview.prepare_callback(patcher, steps)
    bar = comfy.utils.ProgressBar(steps) if video is not None else None

    def callback(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
        if watch is not None:
            watch.step()
        if core is not None:
            core(step, denoised, x, total)
        if bar is not None and video is not None:
            bar.update_absolute(step + 1, total)
            video.offer(denoised)

    return callback
