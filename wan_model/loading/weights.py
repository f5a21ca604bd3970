"""The formats that the weights of a transformer have in its file, and when it is loaded."""

from collections.abc import Mapping

import torch
from torch import nn

from ..offload import FileRegion
from ..quant import FORMATS, Linear, QuantPolicy, WeightFormat, policy_for
from .detect import CheckpointInfo
from .formats import SCALE, TENSOR_SCALE, is_block_matrix


def choose_weights(info: CheckpointInfo, device: torch.device, name: str = "auto") -> QuantPolicy:
    """Returns how the blocks' weights are kept and multiplied.

    Args:
        info: the checkpoint that the weights come from.
        device: where the model will run.
        name: one of `quant.names()`.

    Raises:
        BackendError: for an unknown name, or a format that cannot run on the device.
    """
    return policy_for(name, device, formats_of(info))


def formats_of(info: CheckpointInfo) -> list[WeightFormat]:
    """Returns the formats of the weights of a checkpoint, most weights first."""
    names = info.format.removeprefix("mixed (").removesuffix(")").split(", ")
    by_name = {weight_format.name: weight_format for weight_format in FORMATS}
    return [by_name[name] for name in names]


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
    assert isinstance(layer, Linear)
    if layer.weight.dtype != weight.dtype or (own is None and stored is not None):
        return True
    # fp8 codes have scales of blocks in few bits, or large ones, or none, which means one.
    of_blocks = stored is not None and stored.dtype.itemsize == 1
    return of_blocks != (own is not None and own.itemsize == 1)
