"""How weights of GGUF are multiplied: expanded, to 16 bits or to codes of 8, for a matmul of those.

A block's weights are expanded once for each visit of it (`dit.expanded_blocks`), by Triton where
that is right; a layer that is called outside of a visit dequantizes for each call.

Shape legend: O output features, I input features.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernel_trial import triton_kernels_if_right
from .formats import AT_ONCE, PLAIN, StoredWeight, WeightFormat
from .gguf_formats import GgufFormat
from .kernels import MatmulKernel
from .linear import DEQUANTIZED, Expansion, LinearOperands
from .packing import quantize_rows

TOLERANCE = 1e-4
"""Most rms error of a trial in fp32: products and sums may be rounded together."""

CODES_TOLERANCE = 5e-2
"""The same of codes of 8 bits, of numbers of all sizes."""

TRIAL_ROWS, TRIAL_BLOCKS = 3, 11
"""Of a small weight: no power of two."""

COARSE_BITS, MIXED_BITS = 6.0, 7.0
"""Weights of at most so many bits, scales included, are multiplied in 8 bits: alone, and in a file
whose most weights are coarse. Rows of fp8 add little to the error of types up to Q5_K (0.039
becomes 0.047, of normal numbers with outliers), more to that of Q6_K (0.020, 0.033), and far too
much to Q8_0's (0.006, 0.027). Beside coarse weights fp8 Q6_K is as good as an fp8 file."""

Expander = Callable[[GgufFormat, Tensor, Tensor, Tensor | None], None]
"""(format, bytes (O, bytes of a row), weight (O, I), scale (O, 1) of codes or None) -> nothing."""


def expand(kind: GgufFormat, packed: Tensor, codes: Tensor, scale: Tensor | None) -> None:
    """Writes a weight, in PyTorch: an `Expander`."""
    rows = max(1, AT_ONCE // codes.shape[-1])
    for start in range(0, len(codes), rows):
        some = slice(start, start + rows)
        dense = StoredWeight(kind, packed[some]).dequantize(torch.float32)
        if scale is None:
            codes[some].copy_(dense)
        else:
            quantized, scale[some] = quantize_rows(dense, codes.dtype)
            codes[some].copy_(quantized)


@dataclass(frozen=True)
class FusedExpander:
    """Expands by one kernel what that takes."""

    kernel: Expander

    def __call__(
        self, kind: GgufFormat, packed: Tensor, codes: Tensor, scale: Tensor | None
    ) -> None:
        """See `Expander`."""
        # Triton runs on the current device only.
        here = not packed.is_cuda or packed.device.index == torch.cuda.current_device()
        if here and packed.is_contiguous() and codes.is_contiguous():
            self.kernel(kind, packed, codes, scale)
        else:
            expand(kind, packed, codes, scale)


@dataclass(frozen=True)
class GgufMatmul:
    """A weight in any block type of GGUF. It is an `Expanding` matmul."""

    expand: Expander = expand
    eight_bit: MatmulKernel | None = None
    """Multiplies codes of 8 bits."""
    coarse_bits: float = COARSE_BITS
    """Most bits of a weight that becomes such codes."""
    name: str = "expanded"

    def __call__(self, layer: LinearOperands, x: Tensor) -> Tensor:
        """See `Matmul`; outside of a visit."""
        # Inductor fuses PyTorch's code itself.
        if torch.compiler.is_compiling():
            return DEQUANTIZED(layer, x)
        kind, dtype = layer.format, layer.compute_dtype
        assert isinstance(kind, GgufFormat)
        shape = kind.shape(tuple(layer.weight.shape))
        dense = torch.empty(shape, dtype=dtype, device=layer.weight.device)
        self.expand(kind, layer.weight, dense, None)
        bias = None if layer.bias is None else layer.bias.to(dtype)
        return F.linear(x.to(dtype), dense, bias)

    def expansion(self, layer: LinearOperands) -> Expansion:
        """See `Expanding`."""
        kind, kernel = layer.format, self.eight_bit
        assert isinstance(kind, GgufFormat)
        write = partial(self.expand, kind, layer.weight)
        if kernel is not None and kind.bits <= self.coarse_bits:
            sides = kind.shape(tuple(layer.weight.shape))
            if not any(side % kernel.requires.multiple for side in sides):
                return Expansion(kernel.format, kernel.make(), write)
        return Expansion(PLAIN[layer.compute_dtype], DEQUANTIZED, write)


def is_coarse(kind: WeightFormat, formats: Sequence[WeightFormat]) -> bool:
    """Whether weights of a format are best multiplied in 8 bits.

    Args:
        kind: the format.
        formats: of the file's blocks' weights, that of most first.
    """
    return isinstance(kind, GgufFormat) and kind.bits <= _coarse_bits(formats)


def _coarse_bits(formats: Sequence[WeightFormat]) -> float:
    most = formats[0] if formats else None
    mixed = isinstance(most, GgufFormat) and most.bits <= COARSE_BITS
    return MIXED_BITS if mixed else COARSE_BITS


def gguf_matmul(
    device: torch.device, formats: Sequence[WeightFormat], eight_bit: MatmulKernel | None = None
) -> GgufMatmul:
    """Returns how to multiply weights of GGUF on a device.

    Triton's kernels are taken where they give the right numbers in a trial. They run on the
    current device only.

    Args:
        device: that computes.
        formats: of a file's blocks' weights, that of most first.
        eight_bit: multiplies coarse weights; None: 16 bits for all.
    """
    matmul = GgufMatmul(expand, eight_bit, _coarse_bits(formats))
    if device.type != "cuda" or device.index not in (None, torch.cuda.current_device()):
        return matmul
    packed = [one for one in formats if isinstance(one, GgufFormat)]
    dtype = None if eight_bit is None else eight_bit.format.dtype
    fast: Expander = triton_kernels_if_right(
        make=_triton,
        plain=expand,
        error=lambda found: trial_error(found, device, packed, dtype),
        tolerance=1.0,
        what="Expanding GGUF",
    )
    return replace(matmul, expand=fast)


def _triton() -> Expander:
    from . import gguf_kernels

    return FusedExpander(gguf_kernels.expand)


def trial_error(
    fast: Expander,
    device: torch.device,
    formats: Collection[GgufFormat],
    codes: torch.dtype | None = None,
) -> float:
    """Returns the largest rms error of a block of a few formats, in units of what is tolerated.

    Args:
        fast: is compared with PyTorch.
        device: of the trial.
        formats: to try.
        codes: dtype of codes to try as well.
    """
    errors = [_error(fast, device, one, torch.float32) / TOLERANCE for one in formats]
    if codes is not None:
        errors += [_error(fast, device, one, codes) / CODES_TOLERANCE for one in formats]
    return max(errors, default=0.0)


def _error(fast: Expander, device: torch.device, kind: GgufFormat, dtype: torch.dtype) -> float:
    count = TRIAL_ROWS * TRIAL_BLOCKS
    numbers = torch.arange(count * kind.block_bytes, device=device)
    blocks = (numbers * 37 % 256).to(torch.uint8).view(count, -1)
    halves = numbers[:count].cos().add(2).half().view(-1, 1).view(torch.uint8)
    for start in kind.halves_at:
        blocks[:, start : start + 2] = halves
    bits = blocks.view(TRIAL_ROWS, -1)
    expected = StoredWeight(kind, bits).dequantize(torch.float32)
    got: Any = torch.empty(expected.shape, dtype=dtype, device=device)
    scale = torch.empty(TRIAL_ROWS, 1, device=device) if dtype.itemsize == 1 else None
    fast(kind, bits, got, scale)
    got = got.float() if scale is None else got.float() * scale
    wrong, right = (one.view(count, -1).norm(dim=1) for one in (got - expected, expected))
    return float((wrong / right).max())
