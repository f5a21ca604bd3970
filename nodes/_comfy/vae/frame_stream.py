"""Decoded frames as they are finished, so that a long video is never in memory as a whole."""

from collections.abc import Iterator

import comfy.model_management
import comfy.sd
from torch import Tensor

from ....wan_model.clips import WARM_UP, drop_first
from ..host.kernel_cache import kernels_kept
from ..host.runtime import spare_bytes
from .comfy_vae import WanDuetVAE, decode, fitting_tiling, progress

RUN = 16
"""Latent frames that a VAE which cannot stream decodes at once, beside those it starts from."""


def frame_stream(vae: comfy.sd.VAE, latent: Tensor) -> Iterator[Tensor]:
    """Yields a video's frames (n, H, W, 3) in [0, 1] on the CPU.

    Our VAEs give exactly the frames of `decode`. Others, and ours where a whole frame does not
    fit, decode runs that begin a few latent frames earlier.

    Args:
        vae: ours or a stock one.
        latent: (1, z, T', H', W') as ComfyUI's LATENT holds it.
    """
    if isinstance(vae, WanDuetVAE) and _fits(vae, latent):
        yield from _exact(vae, latent)
    else:
        yield from _in_runs(vae, latent)


def _fits(vae: WanDuetVAE, latent: Tensor) -> bool:
    """Brings the VAE to its device, and tells whether it can decode whole frames there."""
    model = vae.first_stage_model.vae
    height, width = (size * model.config.spatial_stride for size in latent.shape[-2:])
    needed = vae.memory_used_decode(latent.shape, vae.vae_dtype)
    comfy.model_management.load_models_gpu([vae.patcher], memory_required=needed)
    return fitting_tiling(model, "decode", width, height, spare_bytes(vae.device)) is None


def _exact(vae: WanDuetVAE, latent: Tensor) -> Iterator[Tensor]:
    model = vae.first_stage_model.vae
    parts = model.decode_frames(latent, normalized=False, on_chunk=progress())
    while True:
        with kernels_kept():  # not while others run, between two parts
            part = next(parts, None)
        if part is None:
            return
        yield vae.process_output(part.float().cpu())[0].movedim(0, -1)


def _in_runs(vae: comfy.sd.VAE, latent: Tensor) -> Iterator[Tensor]:
    for start in range(0, latent.shape[2], RUN):
        warm_up = min(start, WARM_UP)
        part = latent[:, :, start - warm_up : start + RUN]
        frames = decode(vae, part, "auto").cpu()
        yield from drop_first(iter((frames,)), 4 * warm_up - 3 if warm_up else 0)
