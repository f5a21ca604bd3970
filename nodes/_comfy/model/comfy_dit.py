"""Our transformer with the call signature of ComfyUI's diffusion models.

Parameter names are the official ones, as in core's own Wan model.
"""

import weakref
from functools import partial
from typing import Any

import comfy.ldm.common_dit
import torch
from torch import Tensor

from ....wan_model.attention import AttentionFn, FirstPasses, guarded
from ....wan_model.dit import WanDiT
from ....wan_model.dit.stage_choice import FastestStages
from ..host.kernel_cache import kernels_kept
from ..host.runtime import on_device
from .core_attributes import CoreAttributes
from .core_block import CoreBlock
from .core_positions import core_embedder
from .file_guard import FileGuard
from .forward_pass import ForwardPass, ModelInputs
from .pool import ExpertPool


class ComfyWanDiT(CoreAttributes, WanDiT):
    """What other nodes attach to a MODEL is the business of `ForwardPass`."""

    dtype = torch.float32
    """What ComfyUI hands inputs over in: latents and text stay fp32 up to the first block."""
    pool: weakref.ref[ExpertPool] | None = None
    """Where the weights come from; None if they are all in place. It refers to this, so it is
    owned by the model around this."""
    expert = 0
    """Number of this in the pool."""
    file_guard: FileGuard | None = None
    """Of the files that weights lie in, where no pool brings them."""

    def __init__(self, *args: Any, attention: AttentionFn, **kwargs: Any) -> None:
        super().__init__(*args, attention=guarded(attention), block=CoreBlock, **kwargs)
        self.rope_embedder = core_embedder(self.config.head_dim)
        self.first_passes = FirstPasses()
        self.stages = FastestStages(self.precision)

    def check_files(self) -> None:
        """Refuses weights whose file was written to: reading them may end the process.

        Raises:
            CheckpointError: names the file.
        """
        pool = None if self.pool is None else self.pool()
        if pool is not None:
            pool.check_files(self.expert)
        elif self.file_guard is not None:
            self.file_guard.check()

    @kernels_kept()
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        clip_fea: Tensor | None = None,
        time_dim_concat: Tensor | None = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Returns the velocity for x (B, C_in, T, H, W), which holds the condition channels."""
        options = transformer_options or {}
        wrapped = self._pass(options).wrapped(self._forward)
        with on_device(x.device):
            return wrapped(x, timestep, context, clip_fea, time_dim_concat, options, **kwargs)

    def _forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        clip_fea: Tensor | None = None,  # noqa: ARG002 - Wan2.2 has no image embedding
        time_dim_concat: Tensor | None = None,
        transformer_options: dict[str, Any] | None = None,
        **_: Any,
    ) -> Tensor:
        frames, height, width = x.shape[2:]
        x = self._padded(x, time_dim_concat)
        channels = self.config.out_channels
        cond = x[:, channels:] if self.config.cond_channels else None
        velocity = partial(self.velocity, x[:, :channels], timestep, context, cond)
        # The options that come out of the wrappers, which may have changed them.
        inputs = ModelInputs(x, timestep, context)
        velocity = self._pass(transformer_options or {}).run(velocity, inputs)
        return velocity[:, :, :frames, :height, :width]

    def _pass(self, options: dict[str, Any]) -> ForwardPass:
        engine = None if self.file_guard is None else self.file_guard.run
        if self.pool is not None:
            pool = self.pool()
            assert pool is not None, "the MODEL that owns the weights is gone"
            engine = partial(pool.run, self.expert)
        return ForwardPass(self, options, self.first_passes, engine)

    def _padded(self, x: Tensor, more_frames: Tensor | None) -> Tensor:
        """Returns x with whole patches, and with frames of a reference video behind it."""
        x = comfy.ldm.common_dit.pad_to_patch_size(x, self.patch_size)
        if more_frames is None:
            return x
        padded: Tensor = comfy.ldm.common_dit.pad_to_patch_size(more_frames, self.patch_size)
        return torch.cat((x, padded.to(x)), dim=2)
