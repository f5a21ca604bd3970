"""LoRAs as operands of a linear layer, beside a weight that stays as it is.

A LoRA of 3 % of a weight that is merged into fp8 comes with as much rounding noise as effect. As a
branch of its own it is as exact as 16 bits are, and another strength changes no weight.

Shape legend: O output features, I input features, R ranks of all LoRAs of a layer together.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

RANK_MULTIPLE = 16
"""Ranks are filled up with zeros to a multiple: rows of 16-bit numbers then begin where tensor
cores expect them, and LoRAs of about one rank share a compiled graph."""

RUN_ROWS = 2048
"""Tokens at a time of a Kronecker product, whose intermediate results are as large as outputs."""


class Adapter(Protocol):
    """What a layer adds to what it computes with its weight."""

    @property
    def scale(self) -> Tensor:
        """fp32, one number or several. It may be written to between calls."""
        ...

    def added(self, out: Tensor, x: Tensor) -> Tensor:
        """Returns `out` with what it adds, in its place unless it is compiled.

        Args:
            out: (..., O), contiguous, in the layer's compute dtype.
            x: (..., I), the layer's input.
        """
        ...


@dataclass(frozen=True)
class LowRank:
    """x -> (x @ a.T * scale) @ b.T, which a layer adds to what it computes with its weight."""

    a: Tensor
    """(R, I), in the layer's compute dtype."""
    b: Tensor
    """(O, R), in the layer's compute dtype."""
    scale: Tensor
    """(R,) fp32. It may be written to between calls, to change strengths."""

    def added(self, out: Tensor, x: Tensor) -> Tensor:
        """See `Adapter`."""
        inner = F.linear(x.to(self.a.dtype), self.a).mul_(self.scale)
        if torch.compiler.is_compiling():
            # The sum becomes part of the kernel that follows. In place, `out` would be copied.
            return out + F.linear(inner, self.b)
        out.view(-1, out.shape[-1]).addmm_(inner.flatten(0, -2), self.b.t())
        return out


@dataclass(frozen=True)
class Kronecker:
    """x -> x @ kron(first, second).T * scale, without the product: what LoKr of full rank adds."""

    first: Tensor
    """(O1, I1), in the layer's compute dtype."""
    second: Tensor
    """(O2, I2), in the layer's compute dtype; O1 * O2 = O, I1 * I2 = I."""
    scale: Tensor
    """(1,) fp32. It may be written to between calls, to change the strength."""

    def added(self, out: Tensor, x: Tensor) -> Tensor:
        """See `Adapter`."""
        if torch.compiler.is_compiling():
            return out + self._product(x)
        rows, added = x.flatten(0, -2), out.view(-1, out.shape[-1])
        for start in range(0, len(rows), RUN_ROWS):
            added[start : start + RUN_ROWS].add_(self._product(rows[start : start + RUN_ROWS]))
        return out

    def _product(self, x: Tensor) -> Tensor:
        parts = x.to(self.first.dtype).unflatten(-1, (self.first.shape[1], -1))
        inner = F.linear(parts, self.second).mul_(self.scale)
        return torch.matmul(self.first, inner).flatten(-2)


def add_low_rank(out: Tensor, x: Tensor, adapters: Iterable[Adapter]) -> Tensor:
    """Returns `out` with what LoRAs add to it, in its place unless it is compiled.

    Args:
        out: (..., O), contiguous, in the layer's compute dtype.
        x: (..., I), the layer's input.
        adapters: best one for all plain LoRAs of the layer, see `stacked`.
    """
    for adapter in adapters:
        out = adapter.added(out, x)
    return out


def stacked(pairs: Sequence[tuple[Tensor, Tensor]], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns several LoRAs of one layer as one, without their scales.

    Args:
        pairs: of each LoRA (R_i, I) "down" and (O, R_i) "up", any float dtypes.
        dtype: of the result.

    Returns:
        (R, I) and (O, R), contiguous; the tensors themselves where nothing is to be changed.
    """
    downs = [down.to(dtype) for down, _ in pairs]
    ups = [up.to(dtype) for _, up in pairs]
    a = downs[0] if len(downs) == 1 else torch.cat(downs)
    b = ups[0] if len(ups) == 1 else torch.cat(ups, dim=1)
    missing = -len(a) % RANK_MULTIPLE
    if missing:
        a, b = F.pad(a, (0, 0, 0, missing)), F.pad(b, (0, missing))
    return a.contiguous(), b.contiguous()


def stacked_rank(ranks: Iterable[int]) -> int:
    """Returns the R of `stacked` for LoRAs of some ranks."""
    return -(-sum(ranks) // RANK_MULTIPLE) * RANK_MULTIPLE
