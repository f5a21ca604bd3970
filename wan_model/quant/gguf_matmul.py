"""How weights of GGUF are multiplied: dequantized for each call, by Triton where that is right.

Shape legend: O output features, I input features.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernel_trial import triton_kernels_if_right
from .formats import StoredWeight, WeightFormat
from .gguf_formats import GgufFormat
from .linear import DEQUANTIZED, LinearOperands, Matmul

TOLERANCE = 1e-4
"""Most rms error of a trial in fp32: products and sums may be rounded together."""

TRIAL_ROWS, TRIAL_BLOCKS = 3, 11
"""Of a small weight: no whole number of programs."""

Dequantizer = Callable[[str, Tensor, tuple[int, ...], torch.dtype], Tensor]
"""(name of a format, bytes (O, bytes of a row), shape (O, I), dtype) -> the weight."""


@dataclass(frozen=True)
class FusedMatmul:
    """A weight dequantized by one kernel for each call; others, and compiled code, by PyTorch."""

    dequantize: Dequantizer
    formats: frozenset[str]
    """Names of those that the kernel takes."""
    name: str = "dequantized by Triton"

    def __call__(self, layer: LinearOperands, x: Tensor) -> Tensor:
        """See `Matmul`."""
        weight, dtype = layer.weight, layer.compute_dtype
        fits = layer.format.name in self.formats and weight.is_contiguous()
        # Inductor fuses PyTorch's code itself.
        if not fits or torch.compiler.is_compiling():
            return DEQUANTIZED(layer, x)
        shape = layer.format.shape(tuple(weight.shape))
        dense = self.dequantize(layer.format.name, weight, shape, dtype)
        bias = None if layer.bias is None else layer.bias.to(dtype)
        return F.linear(x.to(dtype), dense, bias)


def fastest_matmul(device: torch.device, formats: Collection[WeightFormat]) -> Matmul:
    """Returns how to multiply weights of these formats on a device.

    Triton's kernels are taken where they give the right numbers in a trial. They run on the
    current device only.
    """
    packed = [one for one in formats if isinstance(one, GgufFormat)]
    if not packed or device.type != "cuda":
        return DEQUANTIZED
    if device.index is not None and device.index != torch.cuda.current_device():
        return DEQUANTIZED
    fused = triton_kernels_if_right(
        make=_triton,
        plain=None,
        error=lambda matmul: 0.0 if matmul is None else trial_error(matmul, device, packed),
        tolerance=TOLERANCE,
        what="Dequantizing GGUF",
    )
    return fused or DEQUANTIZED


def _triton() -> FusedMatmul | None:
    from . import gguf_kernels

    return FusedMatmul(gguf_kernels.dequantize, frozenset(gguf_kernels.KERNELS))


def trial_error(
    matmul: FusedMatmul, device: torch.device, formats: Collection[GgufFormat]
) -> float:
    """Returns the largest rms error of a block of a few formats, relative to PyTorch's numbers."""
    tried = [one for one in formats if one.name in matmul.formats]
    return max((_error(matmul.dequantize, device, one) for one in tried), default=0.0)


def _error(dequantize: Dequantizer, device: torch.device, packed: GgufFormat) -> float:
    count = TRIAL_ROWS * TRIAL_BLOCKS
    numbers = torch.arange(count * packed.block_bytes, device=device)
    blocks = (numbers * 37 % 256).to(torch.uint8).view(count, -1)
    halves = numbers[:count].cos().add(2).half().view(-1, 1).view(torch.uint8)
    for start in packed.halves_at:
        blocks[:, start : start + 2] = halves
    bits = blocks.view(TRIAL_ROWS, -1)
    expected = StoredWeight(packed, bits).dequantize(torch.float32)
    got = dequantize(packed.name, bits, tuple(expected.shape), torch.float32)
    wrong, right = (one.view(count, -1).norm(dim=1) for one in (got - expected, expected))
    return float((wrong / right).max())
