"""Linear layers whose weights have a small scale per block, see `blocks`: nvfp4 and mxfp8.

Any GPU can widen them before a product. Those with tensor cores for them multiply them as they are,
through comfy-kitchen, which also quantises the activations.

Shape legend: M tokens, O output features, I input features.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .blocks import E2M1_PER_E4M3, LARGEST_E2M1, e2m1_as_e4m3, mxfp8_scales, nvfp4_scales
from .linear import LinearOperands, PlainFormat, Stored, scale_of
from .rows import FP8, LARGEST


class _BlockFormat(PlainFormat, ABC):
    """Numbers times one scale per block."""

    @abstractmethod
    def scales(self, stored: Stored) -> Tensor:
        """Returns what a block's numbers are multiplied with, fp32 (O, N, 1)."""

    def unscaled(self, weight: Tensor, stored: Stored) -> Tensor:
        """Returns weight / scales; zero where a block's scale is zero."""
        scales = self.scales(stored)
        blocks = weight.float().unflatten(1, (scales.shape[1], -1)) / scales
        return blocks.masked_fill_(scales == 0, 0.0).flatten(1)


class NvFp4Format(_BlockFormat):
    """Weights of 4.5 bits, widened before a product."""

    name = "nvfp4"

    def dense(self, stored: Stored, dtype: torch.dtype) -> Tensor:
        """Returns numbers * scales, multiplied in fp32."""
        scales = self.scales(stored).mul_(E2M1_PER_E4M3)
        return times_per_block(e2m1_as_e4m3(stored.weight).to(dtype), scales)

    def scales(self, stored: Stored) -> Tensor:
        """See `_BlockFormat`."""
        rows, pairs = stored.weight.shape
        return nvfp4_scales(scale_of(stored), tensor_scale_of(stored), rows, 2 * pairs)


class MxFp8Format(_BlockFormat):
    """Weights of 8.25 bits, widened before a product."""

    name = "mxfp8"

    def dense(self, stored: Stored, dtype: torch.dtype) -> Tensor:
        """Returns numbers * scales, multiplied in fp32."""
        return times_per_block(stored.weight.to(dtype), self.scales(stored))

    def scales(self, stored: Stored) -> Tensor:
        """See `_BlockFormat`."""
        return mxfp8_scales(scale_of(stored), *stored.weight.shape)


def times_per_block(numbers: Tensor, scales: Tensor) -> Tensor:
    """Returns numbers (O, I), exact in any dtype, times scales (O, N, 1), in their place."""
    return numbers.unflatten(1, (scales.shape[1], -1)).mul_(scales).flatten(1)


def tensor_scale_of(stored: Stored) -> Tensor:
    """Returns the second scale of a weight whose format needs one."""
    if stored.weight_scale_2 is None:
        raise RuntimeError("nvfp4 needs a weight with weight_scale_2")
    return stored.weight_scale_2


@dataclass(frozen=True)
class NvFp4Products(NvFp4Format):
    """nvfp4 weights times nvfp4 activations."""

    quantise: Callable[..., tuple[Tensor, Tensor]]
    """comfy-kitchen's quantize_nvfp4."""
    scaled_mm: Callable[..., Tensor]
    """comfy-kitchen's scaled_mm_nvfp4."""
    name = "nvfp4 products"

    def matmul(self, layer: LinearOperands, x: Tensor) -> Tensor:
        """Returns the product in the compute dtype; fp32 by way of bf16."""
        tokens = x.flatten(0, -2).contiguous()
        largest = torch.linalg.vector_norm(tokens, float("inf"), dtype=torch.float32)
        tensor_scale = largest / (LARGEST_E2M1 * LARGEST[FP8])
        tensor_scale = tensor_scale.clamp_min_(torch.finfo(torch.float32).tiny)
        numbers, scales = self.quantise(tokens, tensor_scale, pad_16x=True)
        dtype = _product_dtype(layer)
        out = self.scaled_mm(
            numbers,
            layer.weight,
            tensor_scale_a=tensor_scale,
            tensor_scale_b=tensor_scale_of(layer),
            block_scale_a=scales,
            block_scale_b=scale_of(layer),
            bias=None if layer.bias is None else layer.bias.to(dtype),
            out_dtype=dtype,
        )
        return out[: len(tokens)].view(*x.shape[:-1], -1).to(layer.compute_dtype)


@dataclass(frozen=True)
class MxFp8Products(MxFp8Format):
    """mxfp8 weights times mxfp8 activations."""

    quantise: Callable[..., tuple[Tensor, Tensor]]
    """comfy-kitchen's quantize_mxfp8."""
    scaled_mm: Callable[..., Tensor]
    """comfy-kitchen's scaled_mm_mxfp8."""
    name = "mxfp8 products"

    def matmul(self, layer: LinearOperands, x: Tensor) -> Tensor:
        """Returns the product in the compute dtype; fp32 by way of bf16."""
        tokens = x.flatten(0, -2).contiguous()
        numbers, scales = self.quantise(tokens, pad_32x=True)
        dtype = _product_dtype(layer)
        out = self.scaled_mm(
            numbers,
            layer.weight,
            block_scale_a=scales,
            block_scale_b=scale_of(layer).view(torch.float8_e8m0fnu),
            bias=None if layer.bias is None else layer.bias.to(dtype),
            out_dtype=dtype,
        )[: len(tokens)]
        # Exponents hold neither NaN nor infinity, which would hide a broken token: its first
        # output feature tells of it.
        out[:, 0] += 0 * torch.linalg.vector_norm(tokens, float("inf"), dim=-1)
        return out.view(*x.shape[:-1], -1).to(layer.compute_dtype)


def _product_dtype(layer: LinearOperands) -> torch.dtype:
    return torch.float16 if layer.compute_dtype == torch.float16 else torch.bfloat16
