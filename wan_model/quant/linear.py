"""Linear layers whose weights are stored in one format and multiplied in another.

The layer owns the tensors. Its `format` says what they mean, its `matmul` how to multiply with
them; neither holds tensors, so the offload engine can replace those at any time.

Shape legend: O output features, I input features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .adapters import Adapter, add_low_rank
from .column_scales import scale_columns
from .formats import PARTS, PLAIN, Stored, StoredWeight, WeightFormat, scale_of
from .rotation import rotate


class LinearOperands(Stored, Protocol):
    """What a matmul works with: a `Linear`, or copies of its tensors on another device."""

    @property
    def format(self) -> WeightFormat:
        """Of the weight."""
        ...

    @property
    def bias(self) -> Tensor | None:
        """(O,)."""
        ...

    @property
    def compute_dtype(self) -> torch.dtype:
        """Of the result."""
        ...


class Matmul(Protocol):
    """A way to multiply. Implementations are stateless and compare equal if they are the same."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    def __call__(self, layer: LinearOperands, x: Tensor, /) -> Tensor:
        """Returns x (..., I) @ weight.T + bias as (..., O) in the layer's compute dtype."""
        ...


@dataclass(frozen=True)
class QuantizedRows:
    """Tokens that were quantized by what made them."""

    codes: Tensor
    """(..., I), contiguous."""
    scale: Tensor
    """fp32 (..., 1). A token is about codes * scale."""


@runtime_checkable
class RowMatmul(Protocol):
    """A `Matmul` that quantizes tokens row by row, and also takes them as such."""

    @property
    def codes_dtype(self) -> torch.dtype:
        """Of the tokens' codes."""
        ...

    def of_rows(self, layer: LinearOperands, rows: QuantizedRows, /) -> Tensor:
        """Returns what the matmul returns for the tokens that were quantized."""
        ...


@dataclass(frozen=True)
class Expansion:
    """What a layer's weight becomes for one visit of its block."""

    format: WeightFormat
    """Plain, or codes with a scale for each row."""
    matmul: Matmul
    """Multiplies with it."""
    write: Callable[[Tensor, Tensor | None], None]
    """Writes the weight to tensors (O, I) and, of codes, (O, 1) in fp32."""

    @property
    def has_scale(self) -> bool:
        """Whether there is a scale for each row."""
        return (self.format.base or self.format).row_scales


@runtime_checkable
class Expanding(Protocol):
    """A `Matmul` whose weights are best expanded once, and then used for all runs of tokens."""

    def expansion(self, layer: LinearOperands, /) -> Expansion | None:
        """Returns what becomes of a layer's weight; None if it stays what it is."""
        ...


@dataclass(frozen=True, kw_only=True)
class Expanded(StoredWeight):
    """What a layer multiplies with while its block is visited, in place of its own."""

    matmul: Matmul
    bias: Tensor | None
    compute_dtype: torch.dtype


@dataclass(frozen=True)
class DequantizedMatmul:
    """Any weight on any device: dequantized to the compute dtype for each call."""

    name: str = "dequantized"

    def __call__(self, layer: LinearOperands, x: Tensor) -> Tensor:
        """See `Matmul`.

        With one scale per tensor or row, the codes are multiplied and the result is scaled: they
        are exact in bf16, so nothing is rounded before, and no fp32 copy of the weight is made.
        fp16 has too little range for a result without its scale. Rotated weights stay so, and the
        input is rotated, which rounds as much as rotating the weight back would.
        """
        dtype = layer.compute_dtype
        x = rotate(x.to(dtype), layer.format.rotation)
        weight_format = layer.format.base or layer.format
        if weight_format.row_scales and dtype != torch.float16:
            scale = scale_of(layer)
            if scale.ndim < 3:
                return scale_columns(F.linear(x, layer.weight.to(dtype)), scale, layer.bias)
        bias = None if layer.bias is None else layer.bias.to(dtype)
        return F.linear(x, weight_format.dequantize(layer, dtype), bias)


DEQUANTIZED = DequantizedMatmul()


class Linear(nn.Module):
    """y = x W^T + b, computed in `compute_dtype` whatever the weight is stored as.

    The parameter names are those of `torch.nn.Linear`, so official checkpoints and LoRAs fit.
    """

    weight: Tensor
    bias: Tensor | None
    weight_scale: Tensor | None
    weight_scale_2: Tensor | None
    weight_codebook: Tensor | None
    pre_quant_scale: Tensor | None

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
        self.format: WeightFormat = PLAIN[torch.float32]
        self.matmul: Matmul = DEQUANTIZED
        self.weight = nn.Parameter(torch.empty(out_features, in_features), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False)
        for part in PARTS[1:]:
            self.register_buffer(part, None)
        self.adapters: tuple[Adapter, ...] = ()
        self.expanded: Expanded | None = None

    def put(self, stored: StoredWeight) -> None:
        """Takes a weight, to be dequantized for each call until another `matmul` is set."""
        self.weight = nn.Parameter(stored.weight, requires_grad=False)
        for part in PARTS[1:]:
            setattr(self, part, getattr(stored, part))
        self.format, self.matmul = stored.format, DEQUANTIZED

    def stored(self) -> StoredWeight:
        """Returns the weight as it is stored."""
        return StoredWeight(self.format, *(getattr(self, part) for part in PARTS))

    def forward(self, x: Tensor) -> Tensor:
        """Returns (..., out_features) in `compute_dtype` for x (..., in_features)."""
        return add_low_rank(self.multiply(x), x, self.adapters)

    def multiply(self, x: Tensor) -> Tensor:
        """Returns what `forward` does without adapters."""
        if self.expanded is not None:
            return self.expanded.matmul(self.expanded, x)
        return self.matmul(self, x)

    @property
    def codes_dtype(self) -> torch.dtype | None:
        """Of the codes that `multiply_rows` takes; None if it takes none."""
        matmul = self.matmul if self.expanded is None else self.expanded.matmul
        return matmul.codes_dtype if isinstance(matmul, RowMatmul) else None

    def multiply_rows(self, rows: QuantizedRows) -> Tensor:
        """Returns what `multiply` does, for tokens (..., in_features) that are quantized."""
        operands = self if self.expanded is None else self.expanded
        assert isinstance(operands.matmul, RowMatmul)
        return operands.matmul.of_rows(operands, rows)

    def expansion(self) -> Expansion | None:
        """Returns what its weight is best made for a visit of its block; None: left as it is."""
        return self.matmul.expansion(self) if isinstance(self.matmul, Expanding) else None

    def extra_repr(self) -> str:
        """Shows sizes and formats in `print(module)`."""
        return f"{self.in_features}, {self.out_features}, {self.format.name} ({self.matmul.name})"
