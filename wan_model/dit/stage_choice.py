"""Which stages blocks are run with: fused ones where a trial gives the right numbers."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor

from ..compile_ahead import CompiledAhead
from ..config import Precision
from ..kernel_trial import triton_kernels_if_right
from .activation_memory import StageKind
from .block import Block, BlockStages
from .block_runner import BlockFn, BlockRunner
from .inputs import BlockInputs
from .stage_trial import BlockKind, run_trial, trial_block

StagesOf = Callable[[Block], BlockStages]
"""Makes what is called in place of a block's own stages."""

TOLERANCE = 5e-2
"""Most rms error of a trial: rounding costs 0.005, in e4m3 0.02, a wrong place about 1."""


def own_stages(block: Block) -> BlockStages:
    """Has a block call its own stages."""
    return block


def fastest_stages(device: torch.device, precision: Precision, kind: BlockKind) -> StagesOf:
    """Returns Triton's stages where they give right numbers in a trial, otherwise `own_stages`.

    They have no gradients.

    Args:
        device: the current one, if it is a GPU.
        precision: of the blocks.
        kind: of the blocks.
    """
    if device.type != "cuda":
        return own_stages
    stages = own_stages
    if kind.has_codes:
        stages = _if_right(device, precision, kind, with_codes=True)
    if stages is own_stages:
        stages = _if_right(device, precision, kind.without_codes(), with_codes=False)
    return stages


def _if_right(
    device: torch.device, precision: Precision, kind: BlockKind, *, with_codes: bool
) -> StagesOf:
    return triton_kernels_if_right(
        make=partial(_fused, with_codes=with_codes),
        plain=own_stages,
        error=lambda stages: trial_error(stages, device, precision, kind),
        tolerance=TOLERANCE,
        what="A block's elementwise work" + " in e4m3" * with_codes,
    )


def _fused(*, with_codes: bool) -> StagesOf:
    from .fused_stages import FusedStages

    return partial(FusedStages, with_codes=with_codes)


def trial_error(
    stages_of: StagesOf, device: torch.device, precision: Precision, kind: BlockKind
) -> float:
    """Returns the rms error of all stages' results, relative to those of the block itself."""
    block = trial_block(kind, precision, device)
    results, expected = (
        torch.cat(
            [part.float().flatten() for part in run_trial(of(block), block, precision, device)]
        )
        for of in (stages_of, own_stages)
    )
    return float((results - expected).norm() / expected.norm())


def compile_stages(kinds: Iterable[BlockKind], precision: Precision) -> None:
    """Compiles the kernels that blocks of some kinds need on the current GPU; runs nothing there.

    May fail in any way that Triton and its tools may.
    """
    meta = torch.device("meta")
    for kind in kinds:
        block = trial_block(kind, precision, meta)
        stages = _fused(with_codes=kind.has_codes)(block)
        for _ in run_trial(stages, block, precision, meta):
            pass


class FastestStages:
    """The fastest stages on a device, found when a block of a kind first runs there."""

    def __init__(self, precision: Precision) -> None:
        self.precision = precision
        self._found: dict[tuple[torch.device, BlockKind], StagesOf] = {}
        self.ahead = CompiledAhead()
        """Compiles their kernels, if somebody has it do so."""

    def of(self, block: Block, device: torch.device) -> StagesOf:
        """Returns `fastest_stages` of a block on a device; Triton runs on the current one only."""
        if device.type != "cuda" or device.index not in (None, torch.cuda.current_device()):
            return own_stages
        kind = BlockKind.of(block)
        if kind is None:
            return own_stages
        if (device, kind) not in self._found:
            self.ahead.wait()
            self._found[device, kind] = fastest_stages(device, self.precision, kind)
        return self._found[device, kind]

    def kind(self, blocks: Iterable[BlockFn], device: torch.device) -> StageKind:
        """Returns what they are of a model's blocks on a device, for estimates."""
        found = {self.of(block, device) for block in blocks if isinstance(block, Block)}
        return "fused" if found and own_stages not in found else "own"


def compile_stages_ahead(
    models: Iterable[tuple[FastestStages, Iterable[BlockFn]]],
    device: torch.device,
    kept: Callable[[], AbstractContextManager[object]],
) -> None:
    """Has a thread compile the kernels that models' blocks will need, where that can be done.

    LoRAs come later, and have layers that quantize tokens take some as they are, too.

    Args:
        models: that are about to run, with their blocks.
        device: the current one, if it is a GPU.
        kept: entered meanwhile by the thread, and decides where compiled kernels are kept.
    """
    models = list(models)
    wanted = {
        (kind, stages.precision): None
        for stages, blocks in models
        for block in blocks
        if isinstance(block, Block) and (kind := BlockKind.of(block)) is not None
    }

    wanted |= {(kind.with_adapters(), precision): None for kind, precision in wanted}

    def compile_all() -> None:
        for kind, precision in wanted:
            compile_stages([kind], precision)

    ahead = CompiledAhead.begun(compile_all, device, kept)
    for stages, _ in models:
        stages.ahead = ahead


def _run_fused(block: Block, stages: BlockStages, x: Tensor, inputs: BlockInputs) -> Tensor:
    """Runs a block; what other nodes put in a block's place may return tokens in any order."""
    return block(x, inputs, stages if x.is_contiguous() else None)


def with_stages(
    runner: BlockRunner, stages: FastestStages, changed: Callable[[Block], bool] = lambda _: False
) -> BlockRunner:
    """Returns a runner of blocks that call the fastest stages instead of their own.

    Nothing changes while gradients are recorded: fused stages have none.

    Args:
        runner: runs the blocks.
        stages: of the model.
        changed: whether somebody has changed a part of a block, which then calls its own.
    """

    def staged(blocks: Iterable[BlockFn], device: torch.device) -> Iterator[BlockFn]:
        for block in blocks:
            if not isinstance(block, Block) or changed(block):
                yield block
                continue
            found = stages.of(block, device)
            yield block if found is own_stages else partial(_run_fused, block, found(block))

    def run(blocks: Iterable[BlockFn], x: Tensor, inputs: BlockInputs, /) -> Tensor:
        return runner(blocks if inputs.residual.recorded else staged(blocks, x.device), x, inputs)

    return run
