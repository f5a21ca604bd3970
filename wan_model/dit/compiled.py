"""Stages of blocks compiled by `torch.compile`, for all blocks of all experts.

What lies between two attentions is a chain of elementwise operations around matrix products: norm,
modulation, rotation, GELU, gate, sum. Compiled, each chain is one kernel. Attention stays outside,
so its kernel is the chosen one.

A stage gets its block's weights as inputs, wherever they lie, and works on a run of tokens of any
length: one graph serves all blocks, experts, visits of streamed weights and sizes of video.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

from .inputs import BlockInputs
from .model import BlockRunner
from .rope import Rotation
from .timesteps import TimestepRows

log = logging.getLogger(__name__)

T = TypeVar("T")

Mode = Literal["default", "max-autotune-no-cudagraphs"]
"""The second one also tries kernels for the matrix products, which takes minutes."""


class CompiledStages:
    """A `StageCaller` that compiles stages when they are first called.

    A stage that cannot be compiled is said so once and is called as it is from then on: the result
    is the same, only later. Nothing is compiled while gradients are recorded.
    """

    def __init__(
        self, mode: Mode | None = None, backend: str | Callable[..., Any] = "inductor"
    ) -> None:
        """Compiles nothing yet.

        Args:
            mode: of `torch.compile`.
            backend: of `torch.compile`.
        """
        self._compile = partial(torch.compile, fullgraph=True, backend=backend, mode=mode)
        self._compiled: dict[Callable[..., Any], Callable[..., Any]] = {}

    def __call__(self, stage: Callable[..., T], /, *args: Any) -> T:
        """Returns stage(*args)."""
        if torch.is_grad_enabled():
            return stage(*args)
        compiled = self._compiled.get(stage)
        if compiled is None:
            # Without graph breaks a stage is compiled before any of it runs: if that fails, its
            # tokens are as they were.
            compiled = self._compiled[stage] = self._compile(stage)
        block, *runs = args
        try:
            return compiled(block, *map(_uniform, runs))
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            reason = " ".join(str(error).split("\n")[:2])
            log.warning("%s runs uncompiled, thus slower: %s", stage.__qualname__, reason)
            self._compiled[stage] = stage
            return stage(*args)

    def around(self, runner: BlockRunner) -> BlockRunner:
        """Returns a runner whose blocks call their stages through this."""
        return _Compiling(runner, self)


@dataclass(frozen=True)
class _Compiling:
    """Runs blocks as `runner` does, with compiled stages."""

    runner: BlockRunner
    stages: CompiledStages

    def __call__(self, blocks: Any, x: Tensor, inputs: BlockInputs, /) -> Tensor:
        return self.runner(blocks, x, replace(inputs, call=self.stages))


def _uniform(value: Any) -> Any:
    """Returns a stage's argument such that only the number of tokens differs between runs."""
    if isinstance(value, Rotation):
        return Rotation(_tokens(value.cos, 0), _tokens(value.sin, 0))
    if isinstance(value, TimestepRows):
        return TimestepRows(value.rows, _tokens(value.index, 1))
    return _tokens(value, 1)


def _tokens(run: Tensor, axis: int) -> Tensor:
    """Returns the tensor of a run with a dynamic number of tokens.

    A run is a view of all tokens. What it is a view of, and the stride of a single sample, depend
    on the size of the video, and would be compiled for.
    """
    if run.shape[0] == 1:
        run = run[0].unsqueeze(0)
    run = run.detach()
    torch._dynamo.maybe_mark_dynamic(run, axis)
    return run
