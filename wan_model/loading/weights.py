"""The number format that the weights of a transformer get when it is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import SettingsError
from ..offload import FileRegion
from ..quant import AS_STORED, WeightPlan, resolve
from ..quant.kernels import FP8_KERNELS, INT8_KERNELS, MXFP8_KERNELS, NVFP4_KERNELS, Kernel
from ..quant.plan import NUMBER_FORMATS
from .detect import CheckpointInfo
from .formats import SCALE, TENSOR_SCALE, is_block_matrix

AUTO_KERNELS: tuple[Kernel, ...] = (
    *FP8_KERNELS,
    INT8_KERNELS[0],
    *NVFP4_KERNELS,
    *MXFP8_KERNELS,
)
"""With which `auto` multiplies small weights of a file as they are. Where none of them runs it
widens them before each product; an empty tuple makes that the rule. torch._int_mm is not among
them: it writes sums of 32 bits, and scales them afterwards."""


Plans = tuple[WeightPlan, ...]
"""Of which the first one that takes a weight places it; none of them: it stays as it is stored."""


def plan_weights(name: str, info: CheckpointInfo, device: torch.device) -> Plans:
    """Returns how the blocks' weights are kept and multiplied.

    Args:
        name: one of `quant.names()`.
        info: the checkpoint that the weights come from.
        device: where the model will run.

    Raises:
        BackendError: for an unknown name, or a format that cannot run on the device.
    """
    if name == "auto":
        return choose_weights(info, device).plans
    return () if name == AS_STORED else (resolve(name, device),)


@dataclass(frozen=True)
class WeightChoice:
    """What `auto` does with the weights of a checkpoint, and why."""

    plans: Plans
    """One for each format that is multiplied; other small weights are widened before a product."""
    reason: str
    """For people, without a full stop."""


def choose_weights(info: CheckpointInfo, device: torch.device) -> WeightChoice:
    """Returns how weights are multiplied if nobody says. It converts nothing.

    Args:
        info: the checkpoint.
        device: where the model will run.
    """
    if device.type == "cpu":
        return WeightChoice((), "this runs on the CPU")
    stored = info.format.removeprefix("mixed (").removesuffix(")").split(", ")
    names = {name.removesuffix(" scaled") for name in stored}
    found = [f for f in NUMBER_FORMATS if f.name in names and set(f.kernels) & set(AUTO_KERNELS)]
    if not found:
        return WeightChoice((), f"the file holds {info.format}")
    plans: list[WeightPlan] = []
    reasons: list[str] = []
    for number_format in found:
        reason = ""
        for kernel in number_format.kernels:
            if kernel not in AUTO_KERNELS:
                continue
            reason = kernel.unavailable_reason(device)
            if reason is None:
                plans.append(WeightPlan(number_format, device, kernel, converts=False))
                break
            reason = f"{kernel.label}: {reason}"
        reasons += [reason] if reason else []
    if plans:
        gpu = ".".join(map(str, torch.cuda.get_device_capability(device)))
        which = " and ".join(plan.number_format.name for plan in plans)
        which = which if reasons else "them" if len(plans) > 1 else "it"
        reasons = [f"this GPU ({gpu}) multiplies {which}", *reasons]
    held = " and ".join(number_format.name for number_format in found)
    return WeightChoice(tuple(plans), f"the file holds {held}; {'; '.join(reasons)}")


def choose_compute_dtype(
    asked: torch.dtype | None, plans: Plans, stored: torch.dtype
) -> torch.dtype:
    """Returns what the blocks compute in.

    Args:
        asked: by the caller, if at all.
        plans: number formats of the weights; none: as stored.
        stored: what suits the file's own weights.

    Raises:
        SettingsError: if 16-bit weights are asked for to compute in another dtype.
    """
    if not plans:
        return asked or stored
    plan = plans[0]
    own = plan.default_compute_dtype
    if own is not None and asked not in (None, own):
        raise SettingsError(
            f"Weights and precision contradict each other. Got {plan.number_format.name} weights "
            f"to compute in {asked}, need the same for both. Leave one of them out."
        )
    # Small numbers are far coarser than 16-bit arithmetic, so fp32 would only cost time.
    return asked or own or (torch.bfloat16 if stored == torch.float32 else stored)


def unchanged_regions(model: nn.Module, regions: Mapping[str, FileRegion]) -> dict[str, FileRegion]:
    """Returns the regions of tensors that a loaded model has as the file has them.

    A converted weight has a scale of its own, which may have the size of the one in the file; or it
    has none any more.

    Args:
        model: what `load_dit` gave.
        regions: what `file_regions` gave for the same file.
    """
    return {
        name: region
        for name, region in regions.items()
        if not _is_converted(model, _layer_of(name), regions)
    }


def _layer_of(name: str) -> str:
    for leaf in (SCALE, TENSOR_SCALE, ".weight"):
        name = name.removesuffix(leaf)
    return name


def _is_converted(model: nn.Module, path: str, regions: Mapping[str, FileRegion]) -> bool:
    weight = regions.get(f"{path}.weight")
    if weight is None or not is_block_matrix(f"{path}.weight"):
        return False
    layer = model.get_submodule(path)
    own, stored = getattr(layer, "weight_scale", None), regions.get(path + SCALE)
    if layer.weight.dtype != weight.dtype or (own is None and stored is not None):
        return True
    # fp8 numbers have small scales of blocks, or large ones, or none, which means one.
    of_blocks = stored is not None and stored.dtype.itemsize == 1
    return of_blocks != (own is not None and own.itemsize == 1)
