"""Which stages blocks are run with: fused ones where a trial gives the right numbers."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

from ..config import DiTConfig, Precision
from ..kernel_trial import triton_kernels_if_right
from ..quant import Linear, LowRank
from ..quant.formats import FP8_SCALED
from ..quant.kernels import kernels_for
from .activation_memory import StageKind
from .block import Block, BlockStages
from .block_runner import BlockFn, BlockRunner
from .inputs import BlockInputs
from .modulation import Modulation
from .rope import rotation
from .tokens import IN_PLACE

StagesOf = Callable[[Block], BlockStages]
"""Makes what is called in place of a block's own stages."""

TOLERANCE = 5e-2
"""Most rms error of a trial: rounding costs 0.005, in e4m3 0.02, a wrong place about 1."""

CONFIG = DiTConfig(dim=128, ffn_dim=192, num_heads=2, num_layers=1, in_channels=16, out_channels=16)
"""Of the block that is tried."""

RANK = 48
"""Of its LoRAs."""

FRAMES, HEIGHT, WIDTH = 2, 1, 3
"""Tokens of the trial."""


def own_stages(block: Block) -> BlockStages:
    """Has a block call its own stages."""
    return block


def fastest_stages(device: torch.device, precision: Precision) -> StagesOf:
    """Returns Triton's stages where they give right numbers in a trial, otherwise `own_stages`.

    They have no gradients.

    Args:
        device: the current one, if it is a GPU.
        precision: of the blocks.
    """
    if device.type != "cuda":
        return own_stages
    try_stages = partial(_if_right, device=device, precision=precision)
    stages = try_stages(own_stages, with_codes=False)
    return stages if stages is own_stages else try_stages(stages, with_codes=True)


def _if_right(
    plain: StagesOf, *, device: torch.device, precision: Precision, with_codes: bool
) -> StagesOf:
    def make() -> StagesOf:
        from .fused_stages import FusedStages

        return partial(FusedStages, with_codes=with_codes)

    return triton_kernels_if_right(
        make=make,
        plain=plain,
        error=lambda stages: trial_error(stages, device, precision, with_codes=with_codes),
        tolerance=TOLERANCE,
        what="A block's elementwise work" + " in e4m3" * with_codes,
    )


@torch.no_grad()
def trial_error(
    stages_of: StagesOf, device: torch.device, precision: Precision, *, with_codes: bool
) -> float:
    """Returns the rms error of all stages' results, relative to those of the block itself."""
    block = _trial_block(device, precision, with_codes=with_codes)
    results, expected = (
        torch.cat([part.float().flatten() for part in _trial(stages(block), block, device)])
        for stages in (stages_of, own_stages)
    )
    return float((results - expected).norm() / expected.norm())


def _trial_block(device: torch.device, precision: Precision, *, with_codes: bool) -> Block:
    """Returns a small block; with_codes, its matmuls take tokens in e4m3.

    Raises:
        ValueError: if no such matmul works here.
    """
    with torch.device(device):
        block = Block(CONFIG, precision, Linear)
    for number, parameter in enumerate(block.parameters()):
        wave = _sines(*parameter.shape, start=number, device=device)
        parameter.copy_(1 + wave if parameter.ndim == 1 else wave / 10)
    if with_codes:
        usable = [k for k in kernels_for(FP8_SCALED) if k.unavailable_reason(device) is None]
        if not usable:
            raise ValueError("no matmul takes e4m3 here")
        for layer in block.modules():
            if isinstance(layer, Linear):
                layer.put(FP8_SCALED.quantize(layer.weight.data))
                layer.matmul = usable[0].make()
    for start, layer in enumerate(layer for layer in block.modules() if isinstance(layer, Linear)):
        a, b = (
            (_sines(*shape, start=start, device=device) / 10).to(precision.compute_dtype)
            for shape in ((RANK, layer.in_features), (layer.out_features, RANK))
        )
        layer.adapters = (LowRank(a, b, _sines(RANK, start=start, device=device)),)
    return block


def _trial(stages: BlockStages, block: Block, device: torch.device) -> Iterator[Tensor]:
    """Yields the results of all stages for a few tokens with timesteps of their own."""
    tokens = FRAMES * HEIGHT * WIDTH
    x = _sines(2, tokens, CONFIG.dim, start=20, device=device)
    index = torch.arange(2 * tokens, device=device).view(2, tokens) % 3
    first, second = (
        Modulation(_sines(3, 3, CONFIG.dim, start=start, device=device), index)
        for start in (30, 40)
    )
    angles = rotation((FRAMES, HEIGHT, WIDTH), CONFIG.head_dim, device)
    qkv = block.self_attn.empty_qkv(2, tokens, device)
    stages.project(x, first, angles, qkv, lambda: None)
    yield from qkv
    x, q = stages.add_self_attention(x, first, qkv[0], IN_PLACE)
    yield from (x.clone(), q)
    yield stages.add_text_and_feed_forward(x, second, q, IN_PLACE)


def _sines(*shape: int, start: int, device: torch.device) -> Tensor:
    """Returns numbers of which no two are alike, the same on every machine."""
    numbers = torch.arange(torch.Size(shape).numel(), device=device)
    return (numbers * 0.7 + start).sin().view(shape)


def _run_fused(block: Block, stages: BlockStages, x: Tensor, inputs: BlockInputs) -> Tensor:
    """Runs a block; what other nodes put in a block's place may return tokens in any order."""
    return block(x, inputs, stages if x.is_contiguous() else None)


class FastestStages:
    """The fastest stages on a device, found when a model first runs there."""

    def __init__(self, precision: Precision) -> None:
        self._precision = precision
        self._found: dict[torch.device, StagesOf] = {}

    def on(self, device: torch.device) -> StagesOf:
        """Returns `fastest_stages` of a device; Triton runs on the current one only."""
        if device.type == "cuda" and device.index not in (None, torch.cuda.current_device()):
            return own_stages
        if device not in self._found:
            self._found[device] = fastest_stages(device, self._precision)
        return self._found[device]

    def kind(self, device: torch.device) -> StageKind:
        """Returns what they are on a device, for estimates."""
        return "own" if self.on(device) is own_stages else "fused"


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

    def staged(blocks: Iterable[BlockFn], stages_of: StagesOf) -> Iterator[BlockFn]:
        for block in blocks:
            if isinstance(block, Block) and not changed(block):
                yield partial(_run_fused, block, stages_of(block))
            else:
                yield block

    def run(blocks: Iterable[BlockFn], x: Tensor, inputs: BlockInputs, /) -> Tensor:
        stages_of = own_stages if inputs.residual.recorded else stages.on(x.device)
        return runner(blocks if stages_of is own_stages else staged(blocks, stages_of), x, inputs)

    return run
