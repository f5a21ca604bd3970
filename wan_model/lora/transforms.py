"""Changes that depend on the weight that they find: DoRA, GLoRA, IA3, OFT, BOFT, new weights.

At strength 1 they are what LyCORIS's and PEFT's own forward passes compute, at 0 nothing; between
and beyond, all but BOFT follow the straight line through both.
"""

from dataclasses import dataclass
from math import isqrt, prod

import torch
from torch import Tensor

from .changes import Addition, in_shape

MOST_STAGES = 32
"""Of BOFT: each doubles how far apart the outputs lie that it turns."""


class Transform:
    """A change whose result at strength 1 is a function of the weight."""

    def fits(self, shape: tuple[int, ...]) -> bool:
        """See `Change`."""
        raise NotImplementedError

    def full(self, weight: Tensor) -> Tensor:
        """Returns the weight as strength 1 makes it, in its dtype and on its device."""
        raise NotImplementedError

    def applied(self, weight: Tensor, strength: float) -> Tensor:
        """See `Change`."""
        full = self.full(weight)
        return full if strength == 1 else torch.lerp(weight, full, strength)


@dataclass(frozen=True, eq=False)
class Decomposed(Transform):
    """DoRA: the changed weight, with each row's or column's norm set to a learned magnitude."""

    addition: Addition
    magnitude: Tensor
    """One number for each output, or (1, I, ...): one for each input."""

    def fits(self, shape: tuple[int, ...]) -> bool:
        """See `Change`."""
        axis = self._axis(shape)
        fits = len(shape) > axis and self.magnitude.numel() == shape[axis]
        return fits and self.addition.fits(shape)

    def full(self, weight: Tensor) -> Tensor:
        """See `Transform`. The norm is that of the changed weight, as in the DoRA paper."""
        changed = weight + in_shape(self.addition.delta(weight), weight.shape)
        others = [dim for dim in range(weight.ndim) if dim != self._axis(weight.shape)]
        norm = torch.linalg.vector_norm(changed, dim=others, keepdim=True)
        norm = norm + torch.finfo(weight.dtype).eps
        return changed * (self.magnitude.to(weight).reshape(norm.shape) / norm)

    def _axis(self, shape: tuple[int, ...]) -> int:
        """Returns 0 if there is a magnitude for each output; 1 for each input."""
        given = tuple(self.magnitude.shape)
        return 0 if given[:1] == shape[:1] else 1


@dataclass(frozen=True, eq=False)
class Generalised(Transform):
    """GLoRA: W + scale * (W a1 a2 + b1 b2)."""

    a1: Tensor
    """(I, R)."""
    a2: Tensor
    """(R, I)."""
    b1: Tensor
    """(O, R)."""
    b2: Tensor
    """(R, I)."""
    scale: float

    def fits(self, shape: tuple[int, ...]) -> bool:
        """See `Change`."""
        if len(shape) < 2:
            return False
        sides = (self.a1.shape[0], self.a2.shape[1], self.b1.shape[0])
        return sides == (shape[1], shape[1], shape[0]) and self.b2[0].numel() == prod(shape[1:])

    def full(self, weight: Tensor) -> Tensor:
        """See `Transform`."""
        a1, a2, b1, b2 = (
            tensor.to(weight).flatten(1) for tensor in (self.a1, self.a2, self.b1, self.b2)
        )
        turned = torch.einsum("oi..., ij -> oj...", weight, a1 @ a2)
        return weight + self.scale * (turned + (b1 @ b2).reshape(weight.shape))


@dataclass(frozen=True, eq=False)
class Gain(Transform):
    """IA3: a factor for each output or input."""

    gain: Tensor
    """One number for each output or input."""
    on_input: bool

    def fits(self, shape: tuple[int, ...]) -> bool:
        """See `Change`."""
        axis = 1 if self.on_input else 0
        return len(shape) > axis and self.gain.numel() == shape[axis]

    def full(self, weight: Tensor) -> Tensor:
        """See `Transform`."""
        sides = [1] * weight.ndim
        sides[1 if self.on_input else 0] = -1
        return weight * self.gain.to(weight).reshape(sides)


@dataclass(frozen=True, eq=False)
class Rotation(Transform):
    """OFT and BOFT of LyCORIS: outputs turned in blocks, in BOFT by several stages."""

    blocks: Tensor
    """(K, N, N), in BOFT (M, K, N, N): what makes the skew-symmetric matrices of the turns."""
    constraint: float
    """As stored; times the number of outputs it limits the norm of those. 0: no limit."""
    rescale: Tensor | None = None
    """(O, 1, ...): a factor for each output after the turn."""

    def fits(self, shape: tuple[int, ...]) -> bool:
        """See `Change`."""
        count, size, other = self.blocks.shape[-3:]
        if size != other or count * size != shape[0]:
            return False
        if self.rescale is not None and self.rescale.numel() != shape[0]:
            return False
        if self.blocks.ndim == 4 and len(self.blocks) > MOST_STAGES:
            return False
        widest = 2 ** (len(self.blocks) - 1) * size
        return self.blocks.ndim == 3 or (size % 2 == 0 and shape[0] % widest == 0)

    def full(self, weight: Tensor) -> Tensor:
        """See `Transform`."""
        return self._turned(weight, 1.0)

    def applied(self, weight: Tensor, strength: float) -> Tensor:
        """See `Change`. The stages of BOFT are each moved towards no turn, as in LyCORIS."""
        if self.blocks.ndim == 3:
            return super().applied(weight, strength)
        return self._turned(weight, strength)

    def _turned(self, weight: Tensor, strength: float) -> Tensor:
        turns = self._turns(weight)
        if self.blocks.ndim == 3:
            parts = weight.reshape(*turns.shape[:2], -1)
            turned = torch.einsum("knm, kni -> kmi", turns, parts).reshape(weight.shape)
        else:
            identity = torch.eye(turns.shape[-1], dtype=weight.dtype, device=weight.device)
            turned = weight
            for stage, turn in enumerate(torch.lerp(identity, turns, strength)):
                turned = _butterfly(turned, turn, stage)
        if self.rescale is None:
            return turned
        factor = self.rescale.to(weight).reshape(-1, *[1] * (weight.ndim - 1))
        return turned * (1 + strength * (factor - 1))

    def _turns(self, weight: Tensor) -> Tensor:
        """Returns orthogonal matrices by the Cayley transform."""
        blocks = self.blocks.to(weight)
        skew = blocks - blocks.transpose(-1, -2)
        limit = self.constraint * len(weight)
        if limit > 0:
            skew = skew * (limit / (skew.norm() + 1e-8)).clamp(max=1)
        identity = torch.eye(skew.shape[-1], dtype=weight.dtype, device=weight.device)
        return torch.linalg.solve(identity - skew, identity + skew, left=False)


@dataclass(frozen=True, eq=False)
class InputRotation(Transform):
    """OFT of PEFT: inputs turned in blocks.

    A file does not say how its turns were computed. This is PEFT's default, the first five terms of
    the Cayley transform's series; for turns as small as trained ones all ways are alike.
    """

    upper: Tensor
    """(K, N (N - 1) / 2) or, the same for all blocks, (1, ...): above the diagonal of the
    skew-symmetric matrices."""

    @property
    def size(self) -> int | None:
        """N; None if no matrix has so many numbers above its diagonal."""
        count = self.upper.shape[1]
        size = (1 + isqrt(1 + 8 * count)) // 2
        return size if size > 1 and size * (size - 1) // 2 == count else None

    def fits(self, shape: tuple[int, ...]) -> bool:
        """See `Change`."""
        size = self.size
        if size is None or len(shape) != 2 or shape[1] % size:
            return False
        return len(self.upper) in (1, shape[1] // size)

    def full(self, weight: Tensor) -> Tensor:
        """See `Transform`."""
        turns = self._turns(weight)
        parts = weight.unflatten(1, (-1, turns.shape[-1]))
        return torch.einsum("okc, krc -> okr", parts, turns.expand(parts.shape[1], -1, -1)).flatten(
            1
        )

    def _turns(self, weight: Tensor) -> Tensor:
        upper, size = self.upper.to(weight), self.size
        assert size is not None
        skew = upper.new_zeros(len(upper), size, size)
        rows, columns = torch.triu_indices(size, size, 1, device=upper.device)
        skew[:, rows, columns] = upper
        skew = skew - skew.mT
        squared = skew @ skew
        identity = torch.eye(size, dtype=weight.dtype, device=weight.device)
        return identity + 2 * (skew + squared + squared @ skew) + squared @ squared


def _butterfly(weight: Tensor, turn: Tensor, stage: int) -> Tensor:
    """Turns outputs that lie 2^stage half blocks apart; `turn` is (K, N, N)."""
    stride = 2**stage * (turn.shape[-1] // 2)
    flat = weight.reshape(-1, 2, stride, weight[0].numel())
    shuffled = flat.transpose(1, 2).reshape(len(turn), turn.shape[-1], -1)
    turned = torch.einsum("kij, kjx -> kix", turn, shuffled)
    return turned.reshape(-1, stride, 2, weight[0].numel()).transpose(1, 2).reshape(weight.shape)


@dataclass(frozen=True, eq=False)
class Replacement(Transform):
    """A new weight (`set_weight`)."""

    tensor: Tensor

    def fits(self, shape: tuple[int, ...]) -> bool:
        """See `Change`."""
        return self.tensor.numel() == prod(shape)

    def full(self, weight: Tensor) -> Tensor:
        """See `Transform`."""
        return self.tensor.to(weight).reshape(weight.shape)
