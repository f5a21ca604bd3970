"""Our transformer as ComfyUI's MODEL.

The patcher, the model sampling, the conditionings and LoRAs are ComfyUI's own, so every node that
takes a MODEL takes ours. Parameter names are the official ones, as in core's own Wan model.
"""

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import comfy.ldm.common_dit
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor, nn

from ....wan_model.attention import AttentionFn, FirstPasses, SparseSchedule, guarded
from ....wan_model.dit import BlockInputs, BlockRunner, WanDiT
from ....wan_model.loading import (
    CheckpointInfo,
    converted_file,
    file_regions,
    load_dit,
    unchanged_regions,
)
from ....wan_model.offload import HostModel, Limits
from ..host.runtime import cache_folder, compute_dtype, raise_if_interrupted
from .comfy_linear import ComfyLinear
from .guard import run_guarded
from .patcher import WanPatcher
from .placement import has_engine_by_default
from .pool import ExpertPool, Seat, Shape
from .precision_choice import QUANTIZED, weights_of
from .sparse_steps import for_this_pass

CHECKPOINT = "wanduet_checkpoint"
"""Attachment of a patcher: the CheckpointInfo of the file it came from."""

COMPILED = "wanduet.compiled"
"""Transformer option: the CompiledStages to call the blocks' stages through."""

CONVERTED = "weights"
"""Folder in this pack's own for files of converted weights, which the engine streams from."""

CONVERSION_BYTES = 1 << 31
"""What converting weights takes of the device: the largest one of A14B, seven times in fp32 for
nvfp4, twice for others."""


@dataclass(frozen=True)
class PatchableBlocks:
    """Runs the blocks in order; heeds interrupts and the block patches of other nodes."""

    transformer_options: dict[str, Any]

    def __call__(self, blocks: Iterable[nn.Module], x: Tensor, inputs: BlockInputs) -> Tensor:
        """Returns the residual stream after all blocks."""
        replacements = self.transformer_options.get("patches_replace", {}).get("dit", {})
        for i, block in enumerate(blocks):
            raise_if_interrupted()
            replacement = replacements.get(("double_block", i))
            if replacement is None:
                x = block(x, inputs)
            else:
                x = self._replaced(block, replacement, x, inputs)
        return x

    def _replaced(
        self, block: nn.Module, replacement: Any, x: Tensor, inputs: BlockInputs
    ) -> Tensor:
        def original(args: dict[str, Any]) -> dict[str, Any]:
            return {"img": block(args["img"], inputs)}

        args = {
            "img": x,
            "txt": inputs.text,
            "vec": inputs.time,
            "pe": inputs.rotation,
            "transformer_options": self.transformer_options,
        }
        return replacement(args, {"original_block": original})["img"]


class ComfyWanDiT(WanDiT):
    """The transformer with the call signature of ComfyUI's diffusion models."""

    dtype = torch.float32
    """What ComfyUI hands inputs over in: latents and text stay fp32 up to the first block."""
    patch_size = (1, 2, 2)
    seat: Seat | None = None
    """Where the weights come from; None if they are all in place."""

    def __init__(self, *args: Any, attention: AttentionFn, **kwargs: Any) -> None:
        super().__init__(*args, attention=guarded(attention), **kwargs)
        self.first_passes = FirstPasses()

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
        return WrapperExecutor.new_class_executor(
            self._forward, self, get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        ).execute(x, timestep, context, clip_fea, time_dim_concat, options, **kwargs)

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
        x = comfy.ldm.common_dit.pad_to_patch_size(x, self.patch_size)
        if time_dim_concat is not None:
            extra = comfy.ldm.common_dit.pad_to_patch_size(time_dim_concat, self.patch_size)
            x = torch.cat((x, extra.to(x)), dim=2)
        channels = self.config.out_channels
        cond = x[:, channels:] if self.config.cond_channels else None
        options = transformer_options or {}
        runner: BlockRunner = PatchableBlocks(options)
        attend = self.attend
        if isinstance(attend, SparseSchedule):
            attend, runner = for_this_pass(attend, options, runner)
        if COMPILED in options:
            runner = options[COMPILED].around(runner)
        forward = partial(self.velocity, x[:, :channels], timestep, context, cond)
        predict = partial(forward, runner)
        if self.seat is not None:
            predict = partial(self.seat.run, forward, runner)
        velocity = run_guarded(attend, self.first_passes, options, predict)
        return velocity[:, :, :frames, :height, :width]


class _PlannedMemory:
    """Replaces core's guess of a forward pass' memory by our own arithmetic."""

    diffusion_model: ComfyWanDiT
    sampled_shape: Shape | None = None
    """What memory was asked for last. Before ComfyUI loads a model, that is for one sample."""

    def memory_required(self, input_shape: list[int], **_shapes: Any) -> int:
        """Returns bytes for an input (B, C, T, H, W)."""
        self.sampled_shape = tuple(input_shape)
        batch, _, frames, height, width = input_shape
        return self.diffusion_model.activation_bytes(batch, frames, height, width)


class WanModel16(_PlannedMemory, comfy.model_base.WAN21):
    """A14B models, with the latents of the Wan2.1 VAE."""


class WanModel48(_PlannedMemory, comfy.model_base.WAN22):
    """TI2V-5B, with the latents of the Wan2.2 VAE."""


def load_models(
    infos: Sequence[CheckpointInfo],
    precision: str,
    attention: AttentionFn,
    limits: Limits | None,
) -> list[comfy.model_patcher.ModelPatcher]:
    """Loads the transformer files of one model, one or two experts, as MODELs.

    Args:
        infos: of the files.
        precision: of the loader's widget.
        attention: for all blocks.
        limits: for the weights engine; None has it plan freely where it is the default, and leaves
            the weights to ComfyUI's memory manager elsewhere.

    Raises:
        CheckpointError: if one is not a healthy Wan2.2 transformer.
        BackendError: for a precision that cannot be had here.
        SettingsError: if a limit cannot be met by this model.
    """
    device = comfy.model_management.get_torch_device()
    engine = Limits() if limits is None and has_engine_by_default(device) else limits
    on_host = torch.device("cpu")
    offload_device = comfy.model_management.unet_offload_device() if engine is None else on_host
    load = partial(
        load_dit,
        device=offload_device,
        dtype=compute_dtype(precision),
        weights=weights_of(precision),
        compute_device=device,
        attention=attention,
        dit_class=ComfyWanDiT,
        linear_class=ComfyLinear,
    )
    paths = [info.path for info in infos]
    if precision in QUANTIZED:
        comfy.model_management.free_memory(CONVERSION_BYTES, device)
        if limits is not None:
            folder = cache_folder() / CONVERTED
            paths = [converted_file(path, precision, folder, device=device) for path in paths]
    models = [_base_model(load(path)) for path in paths]
    if engine is not None:
        _share_pool(models, paths, device, engine)
    patcher_class = comfy.model_patcher.ModelPatcher if engine is None else WanPatcher
    patchers = [patcher_class(model, device, offload_device) for model in models]
    for patcher, info in zip(patchers, infos, strict=True):
        patcher.set_attachments(CHECKPOINT, info)
    return patchers


def _share_pool(
    models: Sequence[Any], paths: Sequence[Path], device: torch.device, limits: Limits
) -> None:
    """Has the weights of models moved by one engine."""
    dits = [model.diffusion_model for model in models]
    hosts = [
        HostModel(dit, dit.blocks, unchanged_regions(dit, file_regions(path)))
        for dit, path in zip(dits, paths, strict=True)
    ]
    pool = ExpertPool(hosts, device, limits)
    for number, (model, dit) in enumerate(zip(models, dits, strict=True)):
        model.pool, model.expert = pool, number
        dit.seat = Seat(weakref.ref(pool), number)


def _base_model(dit: ComfyWanDiT) -> comfy.model_base.BaseModel:
    """Wraps a transformer in core's model class for its latents."""
    wide = dit.config.out_channels == 48
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
    archive = getattr(comfy.model_management, "archive_model_dtypes", None)
    if archive is not None:
        archive(dit)
    return model
