"""Sparse attention needs to know layer and step: each block gets the function for both.

The step is read off the options that ComfyUI gives every model call, so any sampler will do, and a
run over two experts counts its steps once.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from ....wan_model.attention import AttentionFn, SparseSchedule
from ....wan_model.dit import BlockFn, BlockInputs, BlockRunner


def for_this_pass(
    schedule: SparseSchedule, options: dict[str, Any], runner: BlockRunner
) -> tuple[AttentionFn, BlockRunner]:
    """Returns the attention function to look after in a forward pass, and who runs its blocks.

    In a dense pass these are the dense function and `runner` itself. A pass between the steps, as
    some solvers have, is dense unless all are sparse.

    Args:
        schedule: which layers and steps are sparse.
        options: transformer options of this pass.
        runner: runs blocks with one function for all.
    """
    step, steps = _step(options)
    if not schedule.is_sparse(step, steps):
        return schedule.dense, runner
    return schedule.sparse, _SparseLayers(schedule, step, steps, runner)


@dataclass(frozen=True)
class _SparseLayers:
    """A `BlockRunner` that gives each block the attention of its layer."""

    schedule: SparseSchedule
    step: int | None
    steps: int
    runner: BlockRunner

    def __call__(self, blocks: Iterable[BlockFn], x: Tensor, inputs: BlockInputs, /) -> Tensor:
        """Returns the residual stream after all blocks."""
        return self.runner(self._layers(blocks), x, inputs)

    def _layers(self, blocks: Iterable[BlockFn]) -> Iterator[BlockFn]:
        """Yields the blocks one by one, as they are to be had one by one, too."""
        for layer, block in enumerate(blocks):
            yield partial(_call, block, self.schedule.at(layer, self.step, self.steps))


def _call(block: BlockFn, attend: AttentionFn, x: Tensor, inputs: BlockInputs) -> Tensor:
    return block(x, replace(inputs, attend=attend))


def _step(options: dict[str, Any]) -> tuple[int | None, int]:
    """Returns which step a pass belongs to, counted from 0, and how many there are.

    The step is None if nobody says, or for a sigma that no step begins with.
    """
    if "sample_sigmas" not in options or "sigmas" not in options:
        return None, 0
    levels, sigma = options["sample_sigmas"][:-1].tolist(), options["sigmas"].flatten()[0].item()
    return (levels.index(sigma) if sigma in levels else None), len(levels)
