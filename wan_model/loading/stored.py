"""Weights of a checkpoint with the scales that belong to them, checked."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..quant import PLAIN, SCALED, StoredWeight
from ..quant.formats import MXFP8, NVFP4
from ..quant.packing import MXFP8_BLOCK, NOT_FINITE, NVFP4_BLOCK, swizzled_shape
from .checkpoint import Checkpoint
from .formats import SCALE, TENSOR_SCALE, block_format, shape_of
from .header import TensorEntry, shown

Reader = Callable[[TensorEntry], Tensor]


def read_stored(read: Reader, checkpoint: Checkpoint, name: str) -> StoredWeight:
    """Reads a weight of any shape, or any other tensor, and its scales.

    Raises:
        CheckpointError: for scales that are missing, broken or of a wrong shape.
    """
    tensors = checkpoint.tensors
    weight, layer = read(tensors[name]), name.removesuffix(".weight")
    entry = tensors.get(layer + SCALE)
    if entry is None or layer == name:
        return StoredWeight(PLAIN[weight.dtype], weight)
    blocks, shape = block_format(tensors, name), shape_of(tensors, name)
    file = entry.file.name
    if blocks is None:
        scale = normal_scale(read(entry), shape, entry.name, file)
        return StoredWeight(SCALED[weight.dtype], weight, scale)
    width = NVFP4_BLOCK if blocks == "nvfp4" else MXFP8_BLOCK
    scale = read(entry).view(torch.uint8)
    need = swizzled_shape(shape[0], -(-shape[1] // width))
    if shape[1] % width or entry.shape != need:
        raise _wrong_shape(scale, f"{list(need)}", shape, entry.name, file)
    if blocks == "mxfp8":
        _check_finite(scale.float().masked_fill_(scale == NOT_FINITE, torch.nan), entry.name, file)
        return StoredWeight(MXFP8, weight, scale)
    scale = scale.view(torch.float8_e4m3fn)
    _check_finite(scale.float(), entry.name, file)
    second = tensors[layer + TENSOR_SCALE]
    tensor_scale = normal_scale(read(second), (1, 1), second.name, file)
    return StoredWeight(NVFP4, weight, scale, tensor_scale)


def normal_scale(scale: Tensor, weight_shape: tuple[int, ...], name: str, file: str) -> Tensor:
    """Returns a scale as fp32 in a shape that `quant.scale_weight` takes.

    Args:
        scale: as stored: one number, (O,), (O, 1), or (O, N, 1).
        weight_shape: of the weight (O, I, ...).
        name: key of the scale, for messages.
        file: file name, for messages.

    Returns:
        shape (), (O, 1) or (O, N, 1).

    Raises:
        CheckpointError: for a shape that does not fit the weight, or numbers that are not finite.
    """
    rows, columns = weight_shape[0], math.prod(weight_shape[1:])
    values = scale.float()
    _check_finite(values, name, file)
    match values.shape:
        case _ if values.numel() == 1:
            return values.reshape(())
        case (r,) | (r, 1) if r == rows:
            return values.reshape(rows, 1)
        case (r, blocks, 1) if r == rows and blocks and columns % blocks == 0:
            return values
    need = f"[1], [{rows}, 1] or [{rows}, blocks, 1]"
    raise _wrong_shape(scale, need, weight_shape, name, file)


def _wrong_shape(
    scale: Tensor, need: str, weight_shape: tuple[int, ...], name: str, file: str
) -> CheckpointError:
    return CheckpointError(
        f"{file} holds a scale of a wrong shape. Got {list(scale.shape)} in {shown(name)}, need "
        f"{need} for a weight of shape {list(weight_shape)}. Choose another version of the model."
    )


def _check_finite(values: Tensor, name: str, file: str) -> None:
    """Refuses infinity and NaN; tensors without data pass."""
    if values.is_meta:
        return
    broken = values[~values.isfinite()]
    if broken.numel():
        raise CheckpointError(
            f"{file} holds broken scales. Got {broken[0].item()} in {shown(name)}, need finite "
            "numbers. Download the file again, or choose another version of the model."
        )
