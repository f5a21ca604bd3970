"""How weights are multiplied that no kernel takes as they are: expanded, if that is faster."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .formats import WeightFormat
from .gguf_formats import GgufFormat
from .gguf_matmul import gguf_matmul
from .kernels import MatmulKernel
from .linear import DEQUANTIZED, Expansion, LinearOperands, Matmul
from .rotated_formats import as_int8, write_int8


@dataclass(frozen=True)
class Int8Expanded:
    """ComfyUI's rotated weights of 4 bits, as the int8 that they stand for. It is `Expanding`.

    comfy-kitchen, too, decodes `asym_w4a8_int8` for a matmul of int8, and `convrot_w4a4` on GPUs
    whose tensor cores have no int4, which are those since Hopper. Its inputs then have 8 bits.
    """

    kernels: tuple[MatmulKernel, ...]
    """Of int8, by rotation."""
    name: str = "expanded to int8"

    def __call__(self, layer: LinearOperands, x: Tensor) -> Tensor:
        """See `Matmul`; outside of a visit."""
        return DEQUANTIZED(layer, x)

    def expansion(self, layer: LinearOperands) -> Expansion | None:
        """See `Expanding`."""
        wide, base = as_int8(layer.format), layer.format.base
        kernel = next((one for one in self.kernels if one.format is wide), None)
        if kernel is None or base is None:
            return None
        sides = layer.format.shape(tuple(layer.weight.shape))
        if any(side % kernel.requires.multiple for side in sides):
            return None
        return Expansion(kernel.format, kernel.make(), partial(_write, layer, base))


def _write(layer: LinearOperands, base: WeightFormat, codes: Tensor, scale: Tensor | None) -> None:
    assert scale is not None
    write_int8(layer, base, codes, scale)


def fastest_matmul(
    device: torch.device,
    formats: Sequence[WeightFormat],
    kernels: Sequence[MatmulKernel] = (),
) -> Matmul:
    """Returns how to multiply quantized weights of a file that no kernel takes as they are.

    Args:
        device: that computes.
        formats: of the file's blocks' weights, that of most first.
        kernels: multiply what weights are expanded to; without them, that is 16 bits.
    """
    if any(isinstance(one, GgufFormat) for one in formats):
        eight_bit = next((one for one in kernels if not one.format.rotation), None)
        return gguf_matmul(device, formats, eight_bit)
    return Int8Expanded(tuple(kernels)) if kernels else DEQUANTIZED
