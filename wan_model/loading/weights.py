"""The number format that the weights of a transformer get when it is loaded."""

import logging
from collections.abc import Mapping

import torch
from torch import nn

from ..errors import SettingsError
from ..offload import FileRegion
from ..quant import AS_STORED, PrecisionChoice, WeightPlan, choose_precision, resolve
from .detect import CheckpointInfo
from .formats import SCALE, is_block_matrix

log = logging.getLogger(__name__)


def plan_weights(name: str, info: CheckpointInfo, device: torch.device) -> WeightPlan | None:
    """Returns how the blocks' weights are kept and multiplied; None: as they are stored.

    Args:
        name: one of `quant.names()`.
        info: the checkpoint that the weights come from.
        device: where the model will run.

    Raises:
        BackendError: for an unknown name, or a format that cannot run on the device.
    """
    if name == "auto":
        choice = choose_weights(info, device)
        log.info("Weights of %s: %s. %s", info.path.name, choice.weights, choice.reason)
        name = choice.weights
    return None if name == AS_STORED else resolve(name, device)


def choose_weights(info: CheckpointInfo, device: torch.device) -> PrecisionChoice:
    """Returns the number format that `auto` stands for, with the reason.

    Args:
        info: the checkpoint.
        device: where the model will run; its free memory counts as it is now.
    """
    if device.type != "cuda":
        return choose_precision(None, 0, 0, info.format)
    return choose_precision(
        torch.cuda.get_device_capability(device),
        torch.cuda.mem_get_info(device)[0],
        info.parameters * torch.bfloat16.itemsize,
        info.format,
    )


def choose_compute_dtype(
    asked: torch.dtype | None, plan: WeightPlan | None, stored: torch.dtype
) -> torch.dtype:
    """Returns what the blocks compute in.

    Args:
        asked: by the caller, if at all.
        plan: number format of the weights; None: as stored.
        stored: what suits the file's own weights.

    Raises:
        SettingsError: if 16-bit weights are asked for to compute in another dtype.
    """
    if plan is None:
        return asked or stored
    own = plan.default_compute_dtype
    if own is not None and asked not in (None, own):
        raise SettingsError(
            f"Weights and precision contradict each other. Got {plan.number_format.name} weights "
            f"to compute in {asked}, need the same for both. Leave one of them out."
        )
    # 8-bit weights are far coarser than 16-bit arithmetic, so fp32 would only cost time.
    return asked or own or (torch.bfloat16 if stored == torch.float32 else stored)


def unchanged_regions(model: nn.Module, regions: Mapping[str, FileRegion]) -> dict[str, FileRegion]:
    """Returns the regions of tensors that a loaded model has as the file has them.

    A converted weight has a scale of its own, which may have the size of the one in the file.

    Args:
        model: what `load_dit` gave.
        regions: what `file_regions` gave for the same file.
    """
    return {
        name: region
        for name, region in regions.items()
        if not _is_converted(model, name.removesuffix(SCALE).removesuffix(".weight"), regions)
    }


def _is_converted(model: nn.Module, path: str, regions: Mapping[str, FileRegion]) -> bool:
    weight = regions.get(f"{path}.weight")
    if weight is None or not is_block_matrix(f"{path}.weight"):
        return False
    layer = model.get_submodule(path)
    has_scale = getattr(layer, "weight_scale", None) is not None
    return layer.weight.dtype != weight.dtype or has_scale != (path + SCALE in regions)
