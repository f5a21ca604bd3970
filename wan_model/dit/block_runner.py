"""How a model's blocks are run, which offloading, interrupts and compiling change."""

from collections.abc import Callable, Iterable
from typing import Protocol

from torch import Tensor

from .inputs import BlockInputs

BlockFn = Callable[[Tensor, BlockInputs], Tensor]
"""A block, or what replaces one: takes and returns the residual stream (B, L, C)."""


class BlockRunner(Protocol):
    """How the blocks are run: in order, by default.

    Offloading, interrupts and compiling come in here: a runner may take blocks one by one, and
    give others to the next runner in their place.
    """

    def __call__(self, blocks: Iterable[BlockFn], x: Tensor, inputs: BlockInputs, /) -> Tensor:
        """Returns the residual stream (B, L, C) after all blocks."""
        ...


def run_in_order(blocks: Iterable[BlockFn], x: Tensor, inputs: BlockInputs) -> Tensor:
    """Runs blocks whose weights are all in place."""
    for block in blocks:
        x = block(x, inputs)
    return x
