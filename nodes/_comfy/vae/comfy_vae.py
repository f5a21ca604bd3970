"""Our VAEs as ComfyUI's VAE."""

import logging
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import torch
from torch import Tensor, nn

from ....wan_model.conditioning import in_colour
from ....wan_model.config import VaeConfig
from ....wan_model.loading import Checkpoint, load_vae
from ....wan_model.vae import FullVae, Tiling, WanVae, choose_tiling, estimate_peak_bytes
from ....wan_model.vae.preview import PreviewVaeConfig, estimate_preview_bytes
from ..host.kernel_cache import kernels_kept
from ..host.runtime import (
    FLOATS,
    progress_bar,
    raise_if_interrupted,
    running_node,
    show,
    spare_bytes,
)
from .remote_vae import RemoteWanVae

logger = logging.getLogger(__name__)

SMALL_TILES = Tiling(256, 64)

WORKING_DTYPES = [torch.bfloat16, torch.float16, torch.float32]


class ComfyWanVae(nn.Module):
    """Speaks core's first-stage protocol: latents in the encoder's own scale, not normalised."""

    comfy_has_chunked_io = True
    """Tells newer cores that `decode` can write into their own buffer."""

    def __init__(self, vae: WanVae) -> None:
        super().__init__()
        self.vae = vae

    @kernels_kept()
    def encode(self, video: Tensor, device: Any = None) -> Tensor:  # noqa: ARG002 - core's call
        """Returns latents (B, z, T', H', W') fp32 for a video (B, 3, T, H, W) in [-1, 1]."""
        height, width = video.shape[-2:]
        return self.encode_tiled(video, self._tiling("encode", width, height))

    @kernels_kept()
    def encode_tiled(self, video: Tensor, tiling: Tiling | None) -> Tensor:
        """As `encode`, with tiles of choice.

        Of a length that no latent has, the first 4n+1 frames are taken, as core's VAE does.
        """
        given = video.shape[2]
        frames = (given - 1) // 4 * 4 + 1
        if frames != given:
            text = f"The first {frames} of {given} frames are encoded: a latent holds 4n+1 frames."
            show(running_node(), text)
        video = in_colour(video, 1)[:, :, :frames]
        return self.vae.encode(video, normalized=False, tiling=tiling, on_chunk=progress())

    @kernels_kept()
    def decode(self, latent: Tensor, output_buffer: Tensor | None = None, **_: Any) -> Tensor:
        """Returns the video (B, 3, T, H, W), not clamped, in host memory or in `output_buffer`."""
        stride = self.vae.config.spatial_stride
        width, height = latent.shape[-1] * stride, latent.shape[-2] * stride
        return self.decode_tiled(latent, self._tiling("decode", width, height), output_buffer)

    @kernels_kept()
    def decode_tiled(
        self, latent: Tensor, tiling: Tiling | None, out: Tensor | None = None
    ) -> Tensor:
        """As `decode`, with tiles of choice."""
        if out is None:
            shape = self.decode_output_shape(latent.shape)
            out = torch.empty(shape, device=comfy.model_management.intermediate_device())
        return self.vae.decode(
            latent, normalized=False, out=out, tiling=tiling, on_chunk=progress()
        )

    def decode_output_shape(self, shape: torch.Size) -> tuple[int, ...]:
        """Returns the video's shape for a latent's shape (B, z, T', H', W')."""
        stride = self.vae.config.spatial_stride
        batch, _, frames, height, width = shape
        return batch, 3, 4 * frames - 3, height * stride, width * stride

    def _tiling(self, operation: Any, width: int, height: int) -> Tiling | None:
        return fitting_tiling(self.vae, operation, width, height, spare_bytes(self.vae.device))


def peak_bytes(
    config: VaeConfig, operation: Any, height: int, width: int, dtype: torch.dtype
) -> int:
    """Returns the memory that an untiled pass needs on the device, full VAE or preview."""
    if isinstance(config, PreviewVaeConfig):
        return estimate_preview_bytes(config, operation, height, width, dtype)
    return estimate_peak_bytes(config, operation, height, width, dtype)


def fitting_tiling(
    vae: WanVae, operation: Any, width: int, height: int, free: int
) -> Tiling | None:
    """Returns the tiles that fit into `free` bytes, or None for whole frames.

    A preview VAE takes whole frames always: a tenth of a full VAE's memory. So does one whose rows
    are shared.
    """
    if isinstance(vae.config, PreviewVaeConfig) or isinstance(vae, RemoteWanVae):
        return None
    return choose_tiling(vae.config, operation, width, height, vae.dtype, free)


def progress() -> Any:
    """Returns a callback that moves the running node's bar and obeys the cancel button."""
    bar = None

    def on_chunk(done: int, total: int) -> None:
        nonlocal bar
        raise_if_interrupted()
        bar = bar or progress_bar(total)
        bar.update_absolute(done, total)

    return on_chunk


class WanDuetVAE(comfy.sd.VAE):
    """A VAE object that every core node takes.

    Core builds its own model from a state dict. It is given the smallest one it knows, so that
    all attributes of its version exist; those that describe the model are then ours.
    """

    file = ""
    """That it was loaded from."""

    def __init__(self, vae: WanVae) -> None:
        super().__init__(sd={"pixel_space_vae": torch.tensor(1.0)})
        config, stride = vae.config, vae.config.spatial_stride
        self.first_stage_model = ComfyWanVae(vae).eval()
        self.vae_dtype = vae.dtype
        self.working_dtypes = WORKING_DTYPES
        self.disable_offload = False
        self.size = None
        self.latent_channels = config.z_dim
        self.latent_dim = 3
        self.output_channels = 3
        self.upscale_ratio = (lambda frames: max(0, frames * 4 - 3), stride, stride)
        self.upscale_index_formula = (4, stride, stride)
        self.downscale_ratio = (lambda frames: max(0, (frames + 3) // 4), stride, stride)
        self.downscale_index_formula = (4, stride, stride)
        self.memory_used_encode = lambda shape, dtype: peak_bytes(
            config, "encode", shape[-2], shape[-1], dtype
        )
        self.memory_used_decode = lambda shape, dtype: peak_bytes(
            config, "decode", shape[-2] * stride, shape[-1] * stride, dtype
        )
        self.patcher = comfy.model_patcher.ModelPatcher(
            self.first_stage_model,
            load_device=self.device,
            offload_device=comfy.model_management.vae_offload_device(),
        )
        self.model_size()

    def get_sd(self) -> dict[str, Tensor]:
        """Returns the official state dict, as files hold it: weights here lie in another order."""
        weights = self.first_stage_model.vae.state_dict()
        return {name: weight.contiguous() for name, weight in weights.items()}

    def decode_tiled_3d(
        self,
        samples: Tensor,
        tile_t: int = 999,  # noqa: ARG002
        tile_x: int = 32,
        tile_y: int = 32,
        overlap: tuple[int, int, int] = (1, 8, 8),
    ) -> Tensor:
        """Decodes in spatial tiles (sizes in latent pixels). Time is streamed, never tiled."""
        stride = self.first_stage_model.vae.config.spatial_stride
        tile = min(tile_x, tile_y)
        tiling = Tiling(tile * stride, min(overlap[-1], tile - 1) * stride)
        video = self.first_stage_model.decode_tiled(samples.to(self.device), tiling)
        return self.process_output(video)

    def encode_tiled_3d(
        self,
        samples: Tensor,
        tile_t: int = 9999,  # noqa: ARG002
        tile_x: int = 512,
        tile_y: int = 512,
        overlap: tuple[int, int, int] = (1, 64, 64),
    ) -> Tensor:
        """Encodes in spatial tiles (sizes in pixels). Time is streamed, never tiled."""
        tile = min(tile_x, tile_y)
        tiling = Tiling(tile, min(overlap[-1], tile - 1))
        return self.first_stage_model.encode_tiled(self.process_input(samples), tiling)


def load_comfy_vae(checkpoint: Checkpoint, precision: str) -> WanDuetVAE:
    """Loads a Wan2.1 or Wan2.2 VAE file, or a preview VAE of either.

    Raises:
        CheckpointError: if it is not a healthy Wan VAE.
    """
    device = comfy.model_management.vae_device()
    dtype = FLOATS.get(precision) or comfy.model_management.vae_dtype(device, WORKING_DTYPES)
    ours = load_vae(checkpoint, device="cpu", dtype=dtype).requires_grad_(False)
    if isinstance(ours, FullVae):
        ours.compile_ahead(device, kernels_kept)
    vae = WanDuetVAE(ours)
    vae.file = str(checkpoint.path)
    return vae


def decode(vae: comfy.sd.VAE, latent: Tensor, tiling: str) -> Tensor:
    """Returns images (B * T, H, W, 3) in [0, 1] with any VAE.

    Args:
        vae: ours or a stock one.
        latent: (B, z, T', H', W') as ComfyUI's LATENT holds it.
        tiling: "auto" tiles when memory is short, "off" never, "on" always.
    """
    if isinstance(vae, WanDuetVAE):
        video = vae.process_output(_decode_ours(vae, latent, tiling)).movedim(1, -1)
    else:
        video = vae.decode_tiled(latent) if tiling == "on" else vae.decode(latent)
    return video.flatten(0, 1)


def _decode_ours(vae: WanDuetVAE, latent: Tensor, tiling: str) -> Tensor:
    model, dtype = vae.first_stage_model, vae.vae_dtype
    stride = model.vae.config.spatial_stride
    height, width = (size * stride for size in latent.shape[-2:])
    needed_bytes = vae.memory_used_decode(latent.shape, dtype)
    comfy.model_management.load_models_gpu([vae.patcher], memory_required=needed_bytes)
    automatic = fitting_tiling(model.vae, "decode", width, height, spare_bytes(vae.device))
    choice = {"off": None, "on": SMALL_TILES, "auto": automatic}[tiling]
    try:
        return model.decode_tiled(latent, choice)
    except torch.cuda.OutOfMemoryError:
        if tiling != "auto" or choice == SMALL_TILES:
            raise
        logger.warning("Decoding whole frames ran out of memory; trying again in small tiles.")
    # Outside the handler: the exception keeps the failed attempt's tensors alive.
    comfy.model_management.soft_empty_cache()
    return model.decode_tiled(latent, SMALL_TILES)
