"""Transformer files as ComfyUI's MODELs, whose weights our engine or ComfyUI brings."""

import weakref
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from comfy.patcher_extension import WrappersMP

from ....wan_model.attention import AttentionFn
from ....wan_model.dit.stage_choice import compile_stages_ahead
from ....wan_model.loading import Checkpoint, load_dit, open_checkpoint, unchanged_regions
from ....wan_model.offload import HostModel, Limits
from ....wan_model.writing import converted_file
from ..host.kernel_cache import kernels_kept
from ..host.runtime import cache_folder, compute_dtype, on_device
from .base_model import base_model
from .comfy_dit import ComfyWanDiT
from .comfy_linear import ComfyLinear
from .file_guard import FileGuard
from .lora_patcher import LoraPatcher
from .low_rank import LoraOperands
from .patcher import WanPatcher
from .placement import has_engine_by_default
from .pool import ExpertPool
from .precision_choice import QUANTIZED, weights_of
from .window_work import KEY, note_windows

CHECKPOINT = "wanduet_checkpoint"
"""Attachment of a patcher: the CheckpointInfo of the file it came from."""

LOADED_WITH = "wanduet_loaded_with"
"""Attachment of a patcher: precision and limits of its loader."""

SPEED = "wanduet_speed"
"""Attachment of a patcher: the name of its loader's tier of speed, if one was chosen."""

CONVERTED = "weights"
"""Folder in this pack's own for files of converted weights, which the engine streams from."""

CONVERSION_BYTES = 1 << 31
"""What converting weights takes of the device: the largest one of A14B, seven times in fp32 for
nvfp4, twice for others."""


@kernels_kept()
def load_models(
    checkpoints: Sequence[Checkpoint],
    precision: str,
    attention: AttentionFn,
    limits: Limits | None,
    device: torch.device | None = None,
) -> list[comfy.model_patcher.ModelPatcher]:
    """Loads transformer files of one model for one device, one or two experts, as MODELs.

    They share a weights engine.

    Args:
        checkpoints: the files, opened.
        precision: of the loader's widget.
        attention: for all blocks.
        limits: for the weights engine; None has it plan freely where it is the default, and leaves
            the weights to ComfyUI's memory manager elsewhere.
        device: that they run on; None: ComfyUI's.

    Raises:
        CheckpointError: if one is not a healthy Wan2.2 transformer.
        BackendError: for a precision that cannot be had here.
        SettingsError: if a limit cannot be met by this model.
    """
    device = device or comfy.model_management.get_torch_device()
    with on_device(device):
        return _load_on(device, checkpoints, precision, attention, limits)


def _load_on(
    device: torch.device,
    checkpoints: Sequence[Checkpoint],
    precision: str,
    attention: AttentionFn,
    limits: Limits | None,
) -> list[comfy.model_patcher.ModelPatcher]:
    """Loads files for the current device."""
    engine = Limits() if limits is None and has_engine_by_default(device) else limits
    on_host = torch.device("cpu")
    offload_device = comfy.model_management.unet_offload_device() if engine is None else on_host
    load = partial(
        load_dit,
        device=offload_device,
        dtype=compute_dtype(precision, device),
        weights=weights_of(precision),
        compute_device=device,
        attention=attention,
        dit_class=ComfyWanDiT,
        linear_class=ComfyLinear,
    )
    infos = [checkpoint.info for checkpoint in checkpoints]
    if precision in QUANTIZED:
        comfy.model_management.free_memory(CONVERSION_BYTES, device)
        if limits is not None:
            folder = cache_folder() / CONVERTED
            checkpoints = [converted_file(c, precision, folder, device=device) for c in checkpoints]
    models = [base_model(load(checkpoint)) for checkpoint in checkpoints]
    dits = [model.diffusion_model for model in models]
    compile_stages_ahead([(dit.stages, dit.blocks) for dit in dits], device, kernels_kept)
    if engine is not None:
        _share_pool(models, checkpoints, device, engine)
    else:
        for model, checkpoint in zip(models, checkpoints, strict=True):
            model.diffusion_model.file_guard = FileGuard(checkpoint.files)
            model.operands, model.merged_patches = LoraOperands(device), {}
            model.scales, model.hook_scales = {}, {}
    patcher_class = LoraPatcher if engine is None else WanPatcher
    patchers = [patcher_class(model, device, offload_device) for model in models]
    for patcher, info in zip(patchers, infos, strict=True):
        patcher.set_attachments(CHECKPOINT, info)
        patcher.set_attachments(LOADED_WITH, (precision, limits))
        patcher.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, note_windows)
        # Of newer cores, which have no other way to a copy on another GPU.
        patcher.cached_patcher_init = (load_again, (info.path, precision, attention, limits))
    return patchers


def load_again(
    path: Path,
    precision: str,
    attention: AttentionFn,
    limits: Limits | None,
    disable_dynamic: bool = True,  # noqa: ARG001 - core's call; ours never are
) -> comfy.model_patcher.ModelPatcher:
    """Loads one file as a MODEL that shares nothing with others; ComfyUI copies patches to it."""
    return load_models([open_checkpoint(path)], precision, attention, limits)[0]


def _share_pool(
    models: Sequence[Any], checkpoints: Sequence[Checkpoint], device: torch.device, limits: Limits
) -> None:
    """Has the weights of models moved by one engine."""
    dits = [model.diffusion_model for model in models]
    hosts = [
        HostModel(dit, dit.blocks, unchanged_regions(dit, checkpoint))
        for dit, checkpoint in zip(dits, checkpoints, strict=True)
    ]
    pool = ExpertPool(hosts, device, limits)
    pool.read_ahead([file for checkpoint in checkpoints for file in checkpoint.files])
    for number, (model, dit) in enumerate(zip(models, dits, strict=True)):
        model.pool, model.expert = pool, number
        dit.pool, dit.expert = weakref.ref(pool), number
        for block in dit.blocks:
            block.has_engine = True
