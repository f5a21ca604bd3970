"""Shapes that GGUF files cannot keep, given back: ggml knows four sides, and no leading ones of 1.

city96's tools write the five sides of the patch embedding nevertheless, as their last step;
stable-diffusion.cpp joins two of them, and drops the first side of modulations.
"""

from collections.abc import Mapping
from dataclasses import replace

from ..errors import CheckpointError
from .source import RawTensor

PATCH = "patch_embedding"


def whole_shapes(file: str, tensors: Mapping[str, RawTensor]) -> dict[str, RawTensor]:
    """Returns a transformer's tensors, by official name, in the shapes that it has.

    Args:
        file: of the checkpoint, for messages.
        tensors: by official name.

    Raises:
        CheckpointError: if there is no tensor of five sides.
    """
    if f"{PATCH}.weight" not in tensors:
        raise CheckpointError(
            f"{file} was converted only half. Got no {PATCH}.weight, which converters for GGUF "
            "leave out and put back in a last step (fix_5d_tensors), need a file that has it. "
            "Choose another version of the model."
        )
    return {name: _whole(name, raw, tensors) for name, raw in tensors.items()}


def _whole(name: str, raw: RawTensor, tensors: Mapping[str, RawTensor]) -> RawTensor:
    shape = raw.shape
    if name.endswith("modulation") and len(shape) == 2:
        return replace(raw, shape=(1, *shape))
    bias = tensors.get(f"{PATCH}.bias")
    if name == f"{PATCH}.weight" and len(shape) == 4 and bias is not None:
        dim = bias.shape[-1] if bias.shape else 0
        if dim and shape[0] % dim == 0:
            return replace(raw, shape=(dim, shape[0] // dim, *shape[1:]))
    return raw
