"""Triton's kernels are compiled for layers, and never again for another video."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.unit.dit.test_activation_memory import T2V_A14B, TI2V_5B
from tests.unit.launches import Launches
from wan_model.config import DiTConfig, Precision
from wan_model.dit.block import Block
from wan_model.dit.modulation import Modulation
from wan_model.dit.rope import Rotation
from wan_model.dit.stage_choice import compile_stages
from wan_model.dit.stage_trial import BlockKind
from wan_model.dit.timesteps import TimestepRows
from wan_model.dit.tokens import IN_PLACE
from wan_model.quant import Linear, LowRank, QuantizedRows, column_scales

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="Not interpreted on a GPU.")

LENGTHS = (1, 512, 8184, 8192)
"""Tokens of a run: of texts, of whole runs and of the last ones."""


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Callable[..., set[Any]]:
    """Replaces kernels of a module, and returns what Triton would compile from then on."""

    def replace(module: ModuleType, *names: str) -> set[Any]:
        found: set[Any] = set()
        for name in names:
            monkeypatch.setattr(module, name, Launches(getattr(module, name), found))
        return found

    return replace


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def test_scales_of_columns(compiled: Callable[..., set[Any]]):
    """Once for one scale and once for many, the trial included."""
    from wan_model.quant import scaling_kernels as kernels

    found = compiled(kernels, "_scale")
    column_scales.trial_error(kernels.scale_in_place, "cpu", torch.bfloat16)
    for rows in LENGTHS:
        for width in (5120, 13824):
            for scale in (empty(1, dtype=torch.float32), empty(width, 1, dtype=torch.float32)):
                for bias in (None, empty(width)):
                    kernels.scale_in_place(empty(1, rows, width), scale, bias)
    assert len(found) == 2


def test_attention_in_fp8(compiled: Callable[..., set[Any]]):
    """Sums, and codes with and without a rotation."""
    from wan_model.attention import fp8_kernels as kernels

    found = compiled(kernels, "_statistics", "_quantize")
    for length in (32760, 75600):
        for heads in (24, 40):
            x = empty(1, length, heads, 128)
            mean, factor = (empty(1, 1, heads, dtype=torch.float32) for _ in range(2))
            kernels.statistics(x)
            for rotation in (None, empty(128, 128)):
                kernels.quantize(x, mean, factor, rotation)
    assert len(found) == 3


def test_fused_stages(compiled: Callable[..., set[Any]]):
    """Two norms of a token, of which one adds a branch, and one of heads."""
    from wan_model.dit import fused_kernels as kernels

    found = compiled(kernels, "_add_and_norm", "_rms_norm", "_activate")
    wanted = kernels.Wanted(torch.bfloat16, codes=True)
    weight = empty(5120, dtype=torch.float32)
    for batch in (1, 2):
        for length in LENGTHS:
            x, branch = empty(batch, length, 5120, dtype=torch.float32), empty(batch, length, 5120)
            for timesteps in (1, length):
                index = torch.empty(batch, timesteps, dtype=torch.int64, device="meta")
                by = Modulation(empty(timesteps, 3, 5120, dtype=torch.float32), index)
                kernels.norm(x, 1e-6, wanted, by)
                kernels.norm(x, 1e-6, wanted, by, branch, by)
            kernels.rms_norm(branch, weight, 1e-6, empty(batch, length, 40, 128))
            kernels.gelu(branch, wanted)
    assert len(found) == 4


class Codes:
    """A matmul of e4m3 tokens that allocates its result only."""

    name = "codes"
    codes_dtype = torch.float8_e4m3fn

    def __call__(self, layer: Linear, x: torch.Tensor) -> torch.Tensor:
        return empty(*x.shape[:-1], layer.out_features, dtype=layer.compute_dtype)

    def of_rows(self, layer: Linear, rows: QuantizedRows) -> torch.Tensor:
        return self(layer, rows.codes)


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize(("codes", "count"), [(False, 7), (True, 8)], ids=["values", "codes"])
@pytest.mark.parametrize("config", [T2V_A14B, TI2V_5B], ids=["A14B", "5B"])
def test_stages_need_what_their_trial_compiles(
    compiled: Callable[..., set[Any]], config: DiTConfig, codes: bool, count: int, adapters: bool
):
    """With kernels of its own, a trial was 12 of 20."""
    from wan_model.dit import fused_kernels as kernels
    from wan_model.dit.fused_stages import FusedStages

    found = compiled(kernels, "_add_and_norm", "_rms_norm", "_activate")
    precision = Precision(compute_dtype=torch.bfloat16)
    with torch.device("meta"):
        block = Block(config, precision, Linear)
    for layer in block.modules():
        if isinstance(layer, Linear):
            layer.matmul = Codes() if codes else layer.matmul
            rank = (16, layer.in_features), (layer.out_features, 16)
            a, b = (empty(*shape) for shape in rank)
            layer.adapters = (LowRank(a, b, empty(16)),) if adapters else ()
    kind = BlockKind.of(block)
    assert kind is not None
    compile_stages([kind], precision)
    of_trial = found.copy()
    assert len(of_trial) == count

    stages, meta = FusedStages(block, with_codes=codes), torch.device("meta")
    for batch, length in ((1, 8184), (2, 513)):
        x = empty(batch, length, config.dim, dtype=torch.float32)
        index = torch.zeros(batch, 1, dtype=torch.int64, device="meta")
        time = TimestepRows(empty(1, 6, config.dim, dtype=torch.float32), index)
        first, second = time.modulations(block.modulation)
        qkv = block.self_attn.empty_qkv(batch, length, meta)
        angles = (empty(length, 1, config.head_dim // 2, dtype=torch.float32) for _ in range(2))
        stages.project(x, first, Rotation(*angles), qkv, lambda: None)
        x, q = stages.add_self_attention(x, first, qkv[0], IN_PLACE)
        stages.add_text_and_feed_forward(x, second, q, IN_PLACE)
    assert found == of_trial
