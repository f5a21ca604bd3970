"""Our transformer in core's model classes.

The patcher, the model sampling, the conditionings and LoRAs are ComfyUI's own, so every node that
takes a MODEL takes ours.
"""

import weakref
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.supported_models

from ....wan_model.loading import find_dit_kind
from ..host.runtime import give_back_memory_soon
from .comfy_dit import ComfyWanDiT
from .lora_shelf import LoraShelf
from .pool import Shape
from .saving import SavingModel
from .window_work import Cut, RunBytes


class _PlannedMemory:
    """Replaces core's guess of a forward pass' memory by our own arithmetic."""

    diffusion_model: ComfyWanDiT
    sampled_shape: Shape | None = None
    """What memory was asked for last. Before ComfyUI loads a model, that is for one sample."""
    beside_bytes = RunBytes()
    """What a run takes beside its passes, of the same question."""
    cut: Cut | None = None
    """The video that ComfyUI prepares, if windows cut it."""

    def memory_required(self, input_shape: list[int], **_shapes: Any) -> int:
        """Returns bytes for an input (B, C, T, H, W)."""
        dit, cut = self.diffusion_model, self.cut
        self.sampled_shape = tuple(input_shape) if cut is None else cut.of_pass(input_shape)
        self.beside_bytes = RunBytes()
        if cut is not None:
            extra = dit.config.cond_channels
            self.beside_bytes = RunBytes(cut.beside_bytes(extra), cut.later_bytes(extra))
        batch, _, frames, height, width = self.sampled_shape
        return dit.activation_bytes(batch, frames, height, width) + self.beside_bytes.whole


class WanModel16(_PlannedMemory, SavingModel, comfy.model_base.WAN21):
    """A14B models, with the latents of the Wan2.1 VAE."""


class WanModel48(_PlannedMemory, SavingModel, comfy.model_base.WAN22):
    """TI2V-5B, with the latents of the Wan2.2 VAE."""


def base_model(dit: ComfyWanDiT) -> comfy.model_base.BaseModel:
    """Wraps a transformer in core's model class for its latents."""
    kind = find_dit_kind(dit.config.in_channels, dit.config.out_channels)
    assert kind is not None, "other channels are refused when a file is opened"
    wide = kind.vae == "wan2.2"
    known = comfy.supported_models
    settings: Any = known.WAN22_T2V if wide else known.WAN21_T2V
    config = settings(
        {
            "image_model": "wan2.1",
            "model_type": "t2v",
            "dim": dit.config.dim,
            "in_dim": dit.config.in_channels,
            "out_dim": dit.config.out_channels,
            "num_layers": dit.config.num_layers,
            "disable_unet_model_creation": True,
        }
    )
    config.set_inference_dtype(dit.dtype, None)
    model_class: Any = WanModel48 if wide else WanModel16
    model = model_class(config, image_to_video=wide)
    model.diffusion_model = dit
    model.lora_shelf = LoraShelf()
    weakref.finalize(model, give_back_memory_soon).atexit = False
    archive = getattr(comfy.model_management, "archive_model_dtypes", None)
    if archive is not None:
        archive(dit)
    return model
