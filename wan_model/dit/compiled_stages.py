"""Stages of blocks compiled by `torch.compile`, for all blocks of all experts.

What lies between two attentions is a chain of elementwise operations around matmuls: norm,
modulation, rotation, GELU, gate, sum. Compiled, each chain is one kernel. Attention stays outside,
so its kernel is the chosen one.

A stage gets its block's weights as inputs, wherever they lie, and works on a run of tokens of any
length: one graph serves all blocks, experts, visits of streamed weights and sizes of video.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from .block import Block, tell_all
from .block_runner import BlockFn, BlockRunner
from .inputs import BlockInputs
from .modulation import Modulation
from .rope import Rotation
from .tokens import Residual

log = logging.getLogger(__name__)

T = TypeVar("T")

Mode = Literal["default", "max-autotune-no-cudagraphs"]
"""The second one also tries kernels for the matmuls, which takes minutes."""

RECOMPILE_LIMIT = 64
"""Graphs of one stage in a process: for every model size, weight format, batch and mode used."""


def compile_all(block: nn.Module) -> str:  # noqa: ARG001 - it has the same answer for all
    """Has every block compiled."""
    return ""


class CompiledStages:
    """Compiles the stages of blocks when they are first called.

    If that fails, it is said, and stages are called as they are from then on: the result is the
    same, only later. PyTorch keeps the graphs, so another object finds those of this one.
    """

    def __init__(
        self,
        mode: Mode = "default",
        backend: str | Callable[..., Any] = "inductor",
        *,
        why_not: Callable[[nn.Module], str] = compile_all,
        report: Callable[[str], None] = log.info,
    ) -> None:
        """Compiles nothing yet, and leaves PyTorch's compiler unimported.

        Args:
            mode: of `torch.compile`.
            backend: of `torch.compile`.
            why_not: says why a block is to be called as it is; "" has it compiled.
            report: gets a line after the first forward pass, and when there is news later.
        """
        self.mode: Mode = mode
        self._compile = partial(torch.compile, fullgraph=True, backend=backend, mode=mode)
        self._compiled: dict[Callable[..., Any], Callable[..., Any]] = {}
        self._why_not = why_not
        self._report = report
        self._failed = False
        self._graphs, self._seconds = 0, 0.0
        self._noted: set[str] = set()
        self._news: list[str] = []
        self._told = False

    def around(self, runner: BlockRunner) -> BlockRunner:
        """Returns a runner of blocks whose stages are compiled.

        Nothing is compiled while gradients are recorded.
        """
        return partial(self._run, runner)

    def call(self, stage: Callable[..., T], block: Block, *runs: Any) -> T:
        """Returns stage(block, *runs), compiled unless that has failed.

        Args:
            stage: method of `Block`. All blocks have one graph, so it is not bound to this one.
            block: whose weights it uses.
            runs: what it is given for a run of tokens.
        """
        if self._failed:
            return stage(block, *runs)
        try:
            return self._call_compiled(stage, block, *map(_uniform, runs))
        except _compile_errors() as error:
            # Without graph breaks a stage is compiled before any of it runs: its tokens are as
            # they were.
            self._failed = True
            reason = " ".join(str(error).split("\n")[:2])
            self._note(f"It runs uncompiled, which is slower: {reason}")
            return stage(block, *runs)

    def _run(
        self, runner: BlockRunner, blocks: Iterable[BlockFn], x: Tensor, inputs: BlockInputs, /
    ) -> Tensor:
        if inputs.residual.recorded:
            return runner(blocks, x, inputs)
        with torch._dynamo.config.patch(recompile_limit=RECOMPILE_LIMIT):
            x = runner(self._compiled_blocks(blocks), x, inputs)
        self._tell()
        return x

    def _compiled_blocks(self, blocks: Iterable[BlockFn]) -> Iterator[BlockFn]:
        """Yields the blocks one by one, as they are to be had one by one, too."""
        for block in blocks:
            if not isinstance(block, Block):
                yield block
            elif reason := self._why_not(block):
                self._note(reason)
                yield block
            else:
                yield partial(block, stages=_StagesOf(block, self))

    def _call_compiled(self, stage: Callable[..., T], *args: Any) -> T:
        compiled = self._compiled.get(stage)
        if compiled is None:
            compiled = self._compiled[stage] = self._compile(stage)
        graphs, start = _graphs_of_process(), time.perf_counter()
        result = compiled(*args)
        if _graphs_of_process() > graphs:
            self._graphs += _graphs_of_process() - graphs
            self._seconds += time.perf_counter() - start
        return result

    def _note(self, line: str) -> None:
        """Has a line reported, unless it was before."""
        if line not in self._noted:
            self._noted.add(line)
            self._news.append(line)

    def _tell(self) -> None:
        """Reports what is new after a forward pass."""
        if self._graphs:
            self._news.append(f"Compiled {self._graphs} graphs in {self._seconds:.1f} s.")
            self._graphs, self._seconds = 0, 0.0
        elif not (self._told or self._news):
            self._news.append("Compiled before: nothing to wait for.")
        self._told = True
        if self._news:
            self._report(" ".join(self._news))
            self._news.clear()


@dataclass(frozen=True)
class _StagesOf:
    """The `BlockStages` of one block, compiled."""

    block: Block
    compiled: CompiledStages

    def project(
        self,
        x: Tensor,
        attention: Modulation,
        angles: Rotation,
        qkv: Sequence[Tensor],
        written: Callable[[], None],
    ) -> None:
        self.compiled.call(Block.project, self.block, x, attention, angles, qkv)
        tell_all(written, qkv)

    def add_self_attention(
        self, x: Tensor, attention: Modulation, attended: Tensor, residual: Residual
    ) -> tuple[Tensor, Tensor]:
        return self.compiled.call(
            Block.add_self_attention, self.block, x, attention, attended, residual
        )

    def add_text_and_feed_forward(
        self, x: Tensor, feed_forward: Modulation, attended: Tensor, residual: Residual
    ) -> Tensor:
        return self.compiled.call(
            Block.add_text_and_feed_forward, self.block, x, feed_forward, attended, residual
        )


def _compile_errors() -> tuple[type[Exception], ...]:
    """Returns what failures to compile are raised as. The compiler is slow to import."""
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    return FailOnRecompileLimitHit, TorchDynamoException


def _graphs_of_process() -> int:
    """Returns how many graphs were compiled so far, whoever had it done."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def _uniform(value: Any) -> Any:
    """Returns a stage's argument such that only the number of tokens differs between runs."""
    if isinstance(value, Rotation):
        return Rotation(_tokens(value.cos, 0), _tokens(value.sin, 0))
    if isinstance(value, Modulation):
        return Modulation(value.rows, _tokens(value.index, 1))
    if isinstance(value, Tensor):
        return _tokens(value, 1)
    return [_uniform(part) for part in value] if isinstance(value, Sequence) else value


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
