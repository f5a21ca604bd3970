"""Matmuls of quantized weights with activations that are quantized when they come in.

Below them: what each needs, and whether a trial gives the right results on a device.

Sources of the constraints: `aten/src/ATen/native/cuda/{ScaledBlas.cpp, RowwiseScaledMM.cu}` of
PyTorch; comfy-kitchen.

Shape legend: M tokens, O output features, I input features.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .column_scales import scale_columns
from .formats import (
    FP8_SCALED,
    INT8_SCALED,
    MXFP8,
    NVFP4,
    StoredWeight,
    WeightFormat,
    scale_of,
    tensor_scale_of,
)
from .linear import DEQUANTIZED, LinearOperands, Matmul, QuantizedRows
from .packing import FP8, LARGEST, LARGEST_E2M1, quantize_rows
from .rotated_formats import CONVROT_INT8
from .rotation import rotate

FAST_ACCUMULATION = True
"""Sums in the tensor cores' own registers. Without it Hopper loses the advantage over bf16."""

TRIAL = 256
"""Side of the square weight that a kernel is tried with: several tiles of scales each way."""

FAILURES = (ImportError, OSError, AttributeError, TypeError, ValueError, AssertionError)
FAILURES += (RuntimeError,)
"""What a kernel raises that is missing or does not run here."""

MIN_ROWS = 32
"""cuBLAS refuses int8 matmuls of 16 rows or fewer, and row-wise scaled fp8 ones of a dozen where
rows are long (13,824): zeros are added below this many."""


def _with_more_rows(tokens: Tensor) -> Tensor:
    """Returns (N, I) with zeros below, if there are fewer rows than cuBLAS takes."""
    missing = MIN_ROWS - len(tokens)
    return tokens if missing <= 0 else F.pad(tokens, (0, 0, 0, missing))


@dataclass(frozen=True)
class Fp8Matmul:
    """fp8 (e4m3) weights and activations through PyTorch; the kernel applies both row-wise scales.

    Such scales give bf16 results only. The CUTLASS kernel is not built on Windows; there only
    Hopper has them, through cuBLAS.
    """

    name: str = "fp8"
    codes_dtype: torch.dtype = FP8

    def __call__(self, layer: LinearOperands, x: Tensor) -> Tensor:
        """See `Matmul`; by way of bf16."""
        return self.of_rows(layer, QuantizedRows(*quantize_rows(x, FP8)))

    def of_rows(self, layer: LinearOperands, rows: QuantizedRows) -> Tensor:
        """See `RowMatmul`."""
        codes, scale = rows.codes.flatten(0, -2), rows.scale.flatten(0, -2)
        weight_scale = scale_of(layer).reshape(-1, 1).expand(layer.weight.shape[0], 1)
        out = torch.ops.aten._scaled_mm(
            _with_more_rows(codes),
            layer.weight.t(),
            scale_a=_with_more_rows(scale),
            scale_b=weight_scale.t().contiguous(),
            bias=None if layer.bias is None else layer.bias.to(torch.bfloat16),
            out_dtype=torch.bfloat16,
            use_fast_accum=FAST_ACCUMULATION,
        )[: len(codes)]
        return out.view(*rows.codes.shape[:-1], -1).to(layer.compute_dtype)


@dataclass(frozen=True)
class UnitScaleFp8Matmul(Fp8Matmul):
    """For kernels that take no row-wise scales: they are applied to the result.

    Sums of codes stay below 448 * 448 * I, far inside the range of bf16. Rounding them to bf16
    before the scales adds 2e-3 to an error of 3e-2.
    """

    name: str = "fp8, scaled afterwards"

    def of_rows(self, layer: LinearOperands, rows: QuantizedRows) -> Tensor:
        """See `RowMatmul`."""
        codes = rows.codes
        one = torch.ones((), device=codes.device)
        out = torch.ops.aten._scaled_mm(
            codes.flatten(0, -2),
            layer.weight.t(),
            scale_a=one,
            scale_b=one,
            out_dtype=torch.bfloat16,
            use_fast_accum=FAST_ACCUMULATION,
        )
        out = out.view(*codes.shape[:-1], -1).mul_(rows.scale)
        return scale_columns(out, scale_of(layer), layer.bias).to(layer.compute_dtype)


@dataclass(frozen=True)
class Int8Matmul:
    """int8 weights and activations through PyTorch, for GPUs without fp8: Turing and Ampere.

    Sums are exact 32-bit integers.
    """

    name: str = "int8"

    def __call__(self, layer: LinearOperands, x: Tensor) -> Tensor:
        """See `Matmul`; fp16 by way of bf16.

        Without the weights' scale a result may exceed fp16's range, so bf16 holds it until then.
        """
        codes, scale = quantize_rows(rotate(x, layer.format.rotation), torch.int8)
        codes = codes.flatten(0, -2)
        sums = torch.ops.aten._int_mm(_with_more_rows(codes), layer.weight.t())[: len(codes)]
        dtype = torch.float32 if layer.compute_dtype == torch.float32 else torch.bfloat16
        # Written in 16 bit at once: an fp32 copy of the sums would be the layer's largest tensor.
        out = torch.empty(sums.shape, dtype=dtype, device=x.device)
        torch.mul(sums, scale.flatten(0, -2), out=out)
        out = scale_columns(out.view(*x.shape[:-1], -1), scale_of(layer), layer.bias)
        return out.to(layer.compute_dtype)


@dataclass(frozen=True)
class KitchenInt8Matmul:
    """int8 weights and activations through comfy-kitchen, scales and bias fused in."""

    int8_linear: Callable[..., Tensor]
    """(x, weight, weight scale, bias, result dtype) -> x W^T + bias."""
    name: str = "int8 (comfy-kitchen)"

    def __call__(self, layer: LinearOperands, x: Tensor) -> Tensor:
        """See `Matmul`."""
        size = layer.format.rotation
        rotation = {"convrot": True, "convrot_groupsize": size} if size else {}
        out = self.int8_linear(
            x, layer.weight, scale_of(layer), layer.bias, layer.compute_dtype, **rotation
        )
        # The kernel takes NaN for -128 and infinity for the largest finite code, which would hide
        # a broken token: its first output feature tells of it.
        out[..., 0] += 0 * torch.linalg.vector_norm(x, float("inf"), dim=-1)
        return out


@dataclass(frozen=True)
class NvFp4Matmul:
    """nvfp4 weights and activations, through comfy-kitchen."""

    quantize: Callable[..., tuple[Tensor, Tensor]]
    """comfy-kitchen's quantize_nvfp4."""
    scaled_mm: Callable[..., Tensor]
    """comfy-kitchen's scaled_mm_nvfp4."""
    name: str = "nvfp4"

    def __call__(self, layer: LinearOperands, x: Tensor) -> Tensor:
        """See `Matmul`; fp32 by way of bf16."""
        if layer.pre_quant_scale is not None:
            x = x * layer.pre_quant_scale.to(x.dtype)
        tokens = x.flatten(0, -2).contiguous()
        largest = torch.linalg.vector_norm(tokens, float("inf"), dtype=torch.float32)
        tensor_scale = largest / (LARGEST_E2M1 * LARGEST[FP8])
        tensor_scale = tensor_scale.clamp_min_(torch.finfo(torch.float32).tiny)
        # A power of two: blocks get the same codes then, whatever the other tokens are, unless
        # those are some ten thousand times larger: fp8 rounds the scales of blocks coarser there.
        tensor_scale = tensor_scale / torch.frexp(tensor_scale).mantissa
        codes, scales = self.quantize(tokens, tensor_scale, pad_16x=True)
        dtype = _result_dtype(layer)
        out = self.scaled_mm(
            codes,
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
class MxFp8Matmul:
    """mxfp8 weights and activations, through comfy-kitchen."""

    quantize: Callable[..., tuple[Tensor, Tensor]]
    """comfy-kitchen's quantize_mxfp8."""
    scaled_mm: Callable[..., Tensor]
    """comfy-kitchen's scaled_mm_mxfp8."""
    name: str = "mxfp8"

    def __call__(self, layer: LinearOperands, x: Tensor) -> Tensor:
        """See `Matmul`; fp32 by way of bf16."""
        tokens = x.flatten(0, -2).contiguous()
        codes, scales = self.quantize(tokens, pad_32x=True)
        dtype = _result_dtype(layer)
        out = self.scaled_mm(
            codes,
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


def _result_dtype(layer: LinearOperands) -> torch.dtype:
    return torch.float16 if layer.compute_dtype == torch.float16 else torch.bfloat16


@dataclass(frozen=True, kw_only=True)
class Requires:
    """What a kernel needs of a device and of a weight."""

    multiple: int
    """Both sides of the tensor `weight` must be multiples of this."""
    capability: tuple[int, int]
    """Of an Nvidia GPU at least, as (major, minor)."""
    on_cpu: bool
    """Whether it exists on the CPU, if only as a slow reference."""


@dataclass(frozen=True, kw_only=True)
class MatmulKernel:
    """One way to multiply weights of a format, with its constraints."""

    label: str
    """What it is, for people."""
    format: WeightFormat
    requires: Requires
    make: Callable[[], Matmul]
    """Fails if a package or function is missing."""
    tolerance: float = 0.1
    """Most rms error of the trial. 8-bit activations cost 0.01 to 0.04, wrong results more than
    0.5."""

    def unavailable_reason(self, device: torch.device) -> str | None:
        """Returns why it cannot run on a device, or None if a trial gave the right result there."""
        if device.type != "cuda":
            on_cpu = device.type == "cpu" and self.requires.on_cpu
            return self._failed_trial(device) if on_cpu else "needs an Nvidia GPU"
        needed, found = self.requires.capability, torch.cuda.get_device_capability(device)
        if torch.version.hip is None and found < needed:
            return "needs compute capability {}.{}, this GPU has {}.{}".format(*needed, *found)
        return self._failed_trial(device)

    def misfit(self, stored: StoredWeight) -> str | None:
        """Returns why it cannot take a weight, or None if it can."""
        scale = stored.weight_scale
        if scale is None or stored.format is not self.format:
            return f"needs {self.format.name} weights with a scale"
        if scale.ndim == 3:
            return "needs one scale per tensor or row"
        if any(side % self.requires.multiple for side in stored.weight.shape):
            return f"needs sides that are multiples of {self.requires.multiple}"
        return None

    def _failed_trial(self, device: torch.device) -> str | None:
        """Returns what goes wrong in a small matmul, if anything."""
        try:
            operands = _Trial.make(device, self.format)
            got = self.make()(operands, operands.x)
        except FAILURES as error:
            return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        expected = DEQUANTIZED(operands, operands.x)
        error = (got - expected).norm() / expected.norm()
        return None if error < self.tolerance else f"gives wrong results here (error {error:.2g})"


@dataclass(frozen=True, kw_only=True)
class _Trial(StoredWeight):
    """A small layer and its input."""

    x: Tensor
    bias: Tensor | None
    compute_dtype: torch.dtype = torch.bfloat16

    @classmethod
    def make(cls, device: torch.device, weight_format: WeightFormat) -> "_Trial":
        """Draws weights from sines: the same on every machine, and no two rows alike.

        Runs of 16 differ in size, so that a scale in a wrong place shows.
        """
        index = torch.arange(2 * TRIAL * TRIAL, device=device)
        sizes = torch.exp2(index // 16 * 5 % 7)
        values = index.mul(0.7).sin().mul(sizes).view(2, TRIAL, TRIAL)
        stored = weight_format.quantize(values[0])
        x = values[1].bfloat16()
        parts: dict[str, Any] = dict(stored.tensors())
        return cls(format=weight_format, **parts, x=x, bias=x[0])


def _kitchen(compiled: str) -> Any:
    """Returns the module comfy_kitchen if it has a compiled function of this name here."""
    kitchen = import_module("comfy_kitchen")
    found = {
        capability
        for name, status in kitchen.list_backends().items()
        if name != "eager" and status["available"] and not status["disabled"]
        for capability in status["capabilities"]
    }
    if compiled not in found:
        raise ImportError(f"comfy-kitchen has no compiled {compiled} here")
    return kitchen


def _kitchen_blocks(matmul: type[NvFp4Matmul] | type[MxFp8Matmul], name: str) -> Matmul:
    kitchen = _kitchen(f"quantize_{name}")
    return matmul(getattr(kitchen, f"quantize_{name}"), getattr(kitchen, f"scaled_mm_{name}"))


_ADA = Requires(multiple=16, capability=(8, 9), on_cpu=True)

_PLAIN_KERNELS = (
    MatmulKernel(
        label="torch._scaled_mm with row-wise scales",
        format=FP8_SCALED,
        requires=_ADA,
        make=Fp8Matmul,
    ),
    MatmulKernel(
        label="torch._scaled_mm, scaled afterwards",
        format=FP8_SCALED,
        requires=_ADA,
        make=UnitScaleFp8Matmul,
    ),
    MatmulKernel(
        label="comfy-kitchen int8_linear",
        format=INT8_SCALED,
        requires=Requires(multiple=16, capability=(7, 5), on_cpu=False),
        make=lambda: KitchenInt8Matmul(_kitchen("int8_linear").int8_linear),
    ),
    MatmulKernel(
        label="torch._int_mm",
        format=INT8_SCALED,
        requires=Requires(multiple=8, capability=(7, 5), on_cpu=True),
        make=Int8Matmul,
    ),
    MatmulKernel(
        label="comfy-kitchen scaled_mm_nvfp4",
        format=NVFP4,
        requires=Requires(multiple=16, capability=(10, 0), on_cpu=False),
        make=partial(_kitchen_blocks, NvFp4Matmul, "nvfp4"),
        tolerance=0.2,  # 4-bit activations cost 0.1
    ),
    MatmulKernel(
        label="comfy-kitchen scaled_mm_mxfp8",
        format=MXFP8,
        requires=Requires(multiple=32, capability=(10, 0), on_cpu=False),
        make=partial(_kitchen_blocks, MxFp8Matmul, "mxfp8"),
    ),
)

KERNELS = (
    *_PLAIN_KERNELS,
    *(
        replace(kernel, format=weight_format, label=f"{kernel.label}, {weight_format.name}")
        for weight_format in CONVROT_INT8.values()
        for kernel in _PLAIN_KERNELS
        if kernel.format is INT8_SCALED
    ),
)
"""In order of preference within a format. Those of int8 rotate their input where the weight is."""


def kernels_for(weight_format: WeightFormat) -> tuple[MatmulKernel, ...]:
    """Returns the kernels of a format in order of preference."""
    return tuple(kernel for kernel in KERNELS if kernel.format is weight_format)
