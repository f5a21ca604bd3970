"""What a LoRA file does to one weight: the change as an object, exact in the dtype it is given.

Two kinds. An `Addition` adds something that does not depend on the weight; the others, in
`transforms`, turn or scale it.

Shape legend: O output features, I input features, R rank.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

MAX_RANK = 256
"""Beyond it, a branch beside a weight would cost too much of what the weight itself does."""


class Pair(NamedTuple):
    """A change as the product of two thin matrices: scale * up @ down."""

    down: Tensor
    """(R, I)."""
    up: Tensor
    """(O, R)."""
    scale: float


class Factors(NamedTuple):
    """A change as a Kronecker product: scale * kron(first, second)."""

    first: Tensor
    """(O1, I1)."""
    second: Tensor
    """(O2, I2)."""
    scale: float


class Change(Protocol):
    """What is done to one weight. Equal to no other, so that it can be told again."""

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a weight of a shape can be changed so."""
        ...

    def applied(self, weight: Tensor, strength: float) -> Tensor:
        """Returns a changed weight, computed in its dtype and on its device; it stays as it is."""
        ...


class Addition:
    """A change that is added."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is added."""
        raise NotImplementedError

    def delta(self, like: Tensor) -> Tensor:
        """Returns what strength 1 adds, in the dtype and on the device of a tensor."""
        raise NotImplementedError

    @cached_property
    def pair(self) -> Pair | None:
        """The same as thin matrices; None where they would not be thin."""
        return None

    def fits(self, shape: tuple[int, ...]) -> bool:
        """See `Change`.

        What was made for fewer input channels, such as a T2V LoRA's patch embedding on an I2V
        model, changes the first ones: the noisy latent is the same in both.
        """
        own = self.shape
        if math.prod(own) == math.prod(shape):
            return own[0] == shape[0] or len(shape) == 1 or 1 in (own[0], shape[0])
        same = len(own) == len(shape) == 5 and own[:1] + own[2:] == shape[:1] + shape[2:]
        return same and own[1] < shape[1]

    @property
    def factors(self) -> Factors | None:
        """The same as a Kronecker product of two matrices, where it is kept as one."""
        return None

    def applied(self, weight: Tensor, strength: float) -> Tensor:
        """See `Change`."""
        return weight + strength * in_shape(self.delta(weight), weight.shape)

    def norm(self) -> float:
        """Returns the Frobenius norm of what strength 1 adds."""
        return float(self.delta(torch.empty(0)).norm())


def in_shape(delta: Tensor, shape: torch.Size) -> Tensor:
    """Returns a difference in a weight's shape, see `Addition.fits`."""
    if delta.numel() == shape.numel():
        return delta.reshape(shape)
    wide = delta.new_zeros(shape)
    wide[:, : delta.shape[1]] = delta
    return wide


@dataclass(frozen=True, eq=False)
class Difference(Addition):
    """A whole tensor (`diff`, `diff_b`, `diff_m`, `w_norm`)."""

    tensor: Tensor
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Addition`."""
        return tuple(self.tensor.shape)

    def delta(self, like: Tensor) -> Tensor:
        """See `Addition`."""
        return self.scale * self.tensor.to(like)


@dataclass(frozen=True, eq=False)
class LowRank(Addition):
    """LoRA, and LoCon for convolutions."""

    down: Tensor
    """(R, I, ...)."""
    up: Tensor
    """(O, R, ...)."""
    scale: float
    mid: Tensor | None = None
    """(R, R, ...), between the two in a convolution taken apart along its kernel as well."""

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Addition`."""
        kernel = self.down.shape[2:] if self.mid is None else self.mid.shape[2:]
        return (len(self.up), self.down.shape[1], *kernel)

    @cached_property
    def pair(self) -> Pair | None:
        """See `Addition`."""
        if self.mid is not None:
            return None
        return Pair(self.down.flatten(1), self.up.flatten(1), self.scale)

    def delta(self, like: Tensor) -> Tensor:
        """See `Addition`."""
        down, up = self.down.to(like).flatten(1), self.up.to(like).flatten(1)
        if self.mid is None:
            return (self.scale * up @ down).reshape(self.shape)
        return self.scale * torch.einsum("mn..., om, ni -> oi...", self.mid.to(like), up, down)

    def norm(self) -> float:
        """See `Addition`; without the product, which is thousands of times larger."""
        if self.mid is not None:
            return super().norm()
        down, up = self.down.float().flatten(1), self.up.float().flatten(1)
        squared = ((up.T @ up) * (down @ down.T)).sum()
        return abs(self.scale) * math.sqrt(max(0.0, float(squared)))


@dataclass(frozen=True, eq=False)
class Hadamard(Addition):
    """LoHa: (w1_a @ w1_b) * (w2_a @ w2_b), each half through a core tensor in convolutions."""

    halves: tuple[tuple[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor, Tensor | None]]
    """(O, R), (R, I, ...) and None; or (R, O), (R, I) and (R, R, ...)."""
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Addition`."""
        a, b, core = self.halves[0]
        return (len(a), *b.shape[1:]) if core is None else (a.shape[1], b.shape[1], *core.shape[2:])

    @cached_property
    def pair(self) -> Pair | None:
        """See `Addition`: every product of a column of one half and one of the other."""
        (a1, b1, core), (a2, b2, _) = self.halves
        if core is not None or b1.ndim > 2 or len(b1) * len(b2) > MAX_RANK:
            return None
        a1, a2, b1, b2 = (tensor.float() for tensor in (a1, a2, b1, b2))
        up = (a1[:, :, None] * a2[:, None, :]).flatten(1)
        return Pair((b1[:, None, :] * b2[None, :, :]).flatten(0, 1), up, self.scale)

    def delta(self, like: Tensor) -> Tensor:
        """See `Addition`."""
        one, other = (_half(*half, like) for half in self.halves)
        return self.scale * (one * other).reshape(self.shape)


def _half(a: Tensor, b: Tensor, core: Tensor | None, like: Tensor) -> Tensor:
    a, b = a.to(like), b.to(like)
    if core is None:
        return a @ b.flatten(1)
    return torch.einsum("pr..., po, ri -> oi...", core.to(like), a, b)


@dataclass(frozen=True, eq=False)
class Kronecker(Addition):
    """LoKr: the Kronecker product of two matrices, each whole or as factors."""

    first: tuple[Tensor, ...]
    """(O1, I1), or (O1, R) and (R, I1)."""
    second: tuple[Tensor, ...]
    """(O2, I2, ...), or (O2, R) and (R, I2, ...)."""
    scale: float
    core: Tensor | None = None
    """(R, R, ...), in convolutions; the second's factors then are (R, O2) and (R, I2)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Addition`."""
        outer, inner = len(self.first[0]), self.first[-1].shape[1]
        if self.core is not None:
            rows, columns = (factor.shape[1] for factor in self.second)
            return (outer * rows, inner * columns, *self.core.shape[2:])
        columns, *kernel = self.second[-1].shape[1:]
        return (outer * len(self.second[0]), inner * columns, *kernel)

    @cached_property
    def pair(self) -> Pair | None:
        """See `Addition`: the product of Kronecker products of the factors."""
        if len(self.second) < 2 or self.core is not None or self.second[1].ndim > 2:
            return None
        first = [factor.float() for factor in self.first]
        if len(first) < 2:
            first.append(torch.eye(first[0].shape[1]))
        up, down = (
            torch.kron(one, two.float()) for one, two in zip(first, self.second, strict=True)
        )
        return Pair(down, up, self.scale) if len(down) <= MAX_RANK else None

    @cached_property
    def factors(self) -> Factors | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """See `Addition`."""
        if self.core is not None or self.second[-1].ndim > 2:
            return None
        first, second = (
            factors[0] if len(factors) == 1 else factors[0].float() @ factors[1].float()
            for factors in (self.first, self.second)
        )
        return Factors(first, second, self.scale)

    def norm(self) -> float:
        """See `Addition`: the product of both norms."""
        if self.factors is None:
            return super().norm()
        first, second, scale = self.factors
        return abs(scale) * float(first.float().norm() * second.float().norm())

    def delta(self, like: Tensor) -> Tensor:
        """See `Addition`."""
        first = _product([factor.to(like) for factor in self.first])
        factors = [factor.to(like) for factor in self.second]
        if self.core is None:
            second = _product(factors)
        else:
            second = torch.einsum("pr..., po, ri -> oi...", self.core.to(like), *factors)
        first = first.reshape(*first.shape, *[1] * (second.ndim - 2))
        return self.scale * torch.kron(first, second.contiguous())


def _product(factors: list[Tensor]) -> Tensor:
    if len(factors) == 1:
        return factors[0]
    a, b = factors
    return (a @ b.flatten(1)).reshape(len(a), *b.shape[1:])
