"""One contiguous piece of memory for all tensors of a block, so that one copy moves them all."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

ALIGNMENT_BYTES = 256
"""Where a tensor may start: what CUDA's allocator guarantees and matrix kernels expect."""


@dataclass(frozen=True)
class TensorPlace:
    """One tensor inside a slab."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the slab."""

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor, without padding."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class SlabLayout:
    """Where each tensor lies. Blocks whose tensors have the same names and types share one."""

    places: tuple[TensorPlace, ...]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "SlabLayout":
        """Lays tensors out one behind the other, in the given order."""
        places: list[TensorPlace] = []
        offset = 0
        for name, tensor in tensors.items():
            place = TensorPlace(name, tensor.dtype, tuple(tensor.shape), offset)
            places.append(place)
            offset = aligned(offset + place.nbytes)
        return cls(tuple(places))

    @property
    def nbytes(self) -> int:
        """Bytes of a slab, a multiple of the alignment."""
        return aligned(self.places[-1].offset + self.places[-1].nbytes) if self.places else 0

    def views(self, memory: Tensor) -> tuple[Tensor, ...]:
        """Returns the tensors, in the order of `places`, as views of a slab.

        Args:
            memory: uint8, at least `nbytes` long, on any device.
        """
        return tuple(
            memory[place.offset : place.offset + place.nbytes].view(place.dtype).view(place.shape)
            for place in self.places
        )


def aligned(nbytes: int) -> int:
    """Returns the next multiple of the alignment."""
    return -(-nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
