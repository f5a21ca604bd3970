"""Linear layers whose weights are stored in one number format and used in another.

The layer owns the tensors; a `WeightFormat` knows how to multiply with them. Formats carry no
tensors, so the offload engine can replace `weight`, `weight_scale` and `bias` at any time.

Shape legend: O output features, I input features.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .rows import scale_weight, unscale_weight


class Stored(Protocol):
    """A weight as it is stored."""

    @property
    def weight(self) -> Tensor:
        """(O, I), or for nvfp4 bytes (O, I / 2)."""
        ...

    @property
    def weight_scale(self) -> Tensor | None:
        """fp32 per tensor, row, or block of a row; or small numbers in tiles, see `blocks`."""
        ...

    @property
    def weight_scale_2(self) -> Tensor | None:
        """fp32, for the whole tensor. Only nvfp4 has it."""
        ...


class LinearOperands(Stored, Protocol):
    """What a format multiplies with: a `Linear`, or copies of its tensors on another device."""

    @property
    def bias(self) -> Tensor | None:
        """(O,)."""
        ...

    @property
    def compute_dtype(self) -> torch.dtype:
        """Of the product."""
        ...


class WeightFormat(Protocol):
    """How to use a stored weight. Implementations are stateless."""

    name: str
    """Short name for people: "bf16", "fp8 scaled"."""

    def dense(self, stored: Stored, dtype: torch.dtype) -> Tensor:
        """Returns the weight (O, I) as ordinary numbers of `dtype`."""
        ...

    def unscaled(self, weight: Tensor, stored: Stored) -> Tensor:
        """Returns another weight (O, I) in units of the stored numbers, fp32, not rounded."""
        ...

    def matmul(self, layer: LinearOperands, x: Tensor) -> Tensor:
        """Returns x (..., I) @ weight.T + bias as (..., O) in the layer's compute dtype."""
        ...


class PlainFormat:
    """A weight stored as ordinary numbers (fp32, fp16, bf16, unscaled fp8): cast and multiply."""

    name = "plain"

    def dense(self, stored: Stored, dtype: torch.dtype) -> Tensor:
        """Returns the weight cast to `dtype`; no copy if it already is."""
        return stored.weight.to(dtype)

    def unscaled(self, weight: Tensor, stored: Stored) -> Tensor:  # noqa: ARG002
        """Returns the weight as it is."""
        return weight

    def matmul(self, layer: LinearOperands, x: Tensor) -> Tensor:
        """Multiplies in the layer's compute dtype."""
        dtype = layer.compute_dtype
        bias = None if layer.bias is None else layer.bias.to(dtype)
        return F.linear(x.to(dtype), self.dense(layer, dtype), bias)


class ScaledFormat(PlainFormat):
    """A weight stored as small numbers with fp32 scales, per tensor, row, or block of a row."""

    name = "scaled"

    def dense(self, stored: Stored, dtype: torch.dtype) -> Tensor:
        """Returns weight * scale, multiplied in fp32."""
        scale = scale_of(stored)
        if scale.ndim < 3 and (stored.weight.itemsize, dtype.itemsize) == (1, 2):
            # 8-bit numbers are exact in 16 bits, so no fp32 copy is needed. A scale with axes is
            # multiplied in fp32; one without would be rounded to `dtype` first.
            return stored.weight.to(dtype).mul_(scale.reshape(-1, 1))
        return scale_weight(stored.weight, scale).to(dtype)

    def unscaled(self, weight: Tensor, stored: Stored) -> Tensor:
        """Returns weight / scale."""
        return unscale_weight(weight, scale_of(stored))

    def matmul(self, layer: LinearOperands, x: Tensor) -> Tensor:
        """Multiplies with the stored numbers, then scales the result where that is the same.

        8-bit numbers are exact in bf16, so nothing is rounded before the product, and no fp32
        copy of the weight is made. fp16 has too little range for products without their scale.
        """
        scale = scale_of(layer)
        if scale.ndim == 3 or layer.compute_dtype == torch.float16:
            return super().matmul(layer, x)
        dtype = layer.compute_dtype
        return scale_columns(F.linear(x.to(dtype), layer.weight.to(dtype)), scale, layer.bias)


def scale_columns(out: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """Returns out * scale + bias in the place of `out`.

    Args:
        out: (..., O), any float dtype.
        scale: fp32, one number or (O, 1). Multiplied in fp32, which needs an axis: a number without
            one would be rounded to the dtype of `out` first.
        bias: (O,) or None.
    """
    out.mul_(scale.reshape(-1))
    return out if bias is None else out.add_(bias.to(out.dtype))


def scale_of(stored: Stored) -> Tensor:
    """Returns the scale of a weight whose format needs one."""
    if stored.weight_scale is None:
        raise RuntimeError("A scaled format needs a weight with weight_scale")
    return stored.weight_scale


class Linear(nn.Module):
    """y = x W^T + b, computed in `compute_dtype` whatever the weight is stored as.

    The parameter names are those of `torch.nn.Linear`, so official checkpoints and LoRAs fit.
    """

    weight: Tensor
    bias: Tensor | None
    weight_scale: Tensor | None
    weight_scale_2: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.compute_dtype = compute_dtype
        self.format: WeightFormat = PlainFormat()
        self.weight = nn.Parameter(torch.empty(out_features, in_features), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False)
        self.register_buffer("weight_scale", None)
        self.register_buffer("weight_scale_2", None)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (..., out_features) in `compute_dtype` for x (..., in_features)."""
        return self.format.matmul(self, x)

    def extra_repr(self) -> str:
        """Shows sizes and number formats in `print(module)`."""
        stored = str(self.weight.dtype).removeprefix("torch.")
        return f"{self.in_features}, {self.out_features}, {stored} ({self.format.name})"
