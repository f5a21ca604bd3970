"""Fused stages: Triton's kernels, interpreted on the CPU, and who gets them."""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import ClassVar

import pytest
import torch

from tests.unit.dit.toy import BF16, FP32, first_frame_clean, make_dit, make_inputs
from wan_model.compile_ahead import CompiledAhead
from wan_model.dit import run_in_order, stage_choice
from wan_model.dit.attention_layers import AllTokens
from wan_model.dit.block import Block
from wan_model.dit.compiled_stages import CompiledStages
from wan_model.dit.stage_choice import (
    TOLERANCE,
    FastestStages,
    compile_stages_ahead,
    fastest_stages,
    own_stages,
    trial_error,
    with_stages,
)
from wan_model.dit.stage_trial import LAYERS, BlockKind, LayerKind, run_trial, trial_block
from wan_model.quant import LowRank, QuantizedRows, quantize_rows

pytest.importorskip("triton")
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="Not interpreted on a GPU.")

CPU = torch.device("cpu")


class Fused(FastestStages):
    """Gives fused stages on the CPU, too."""

    def __init__(self, *, with_codes: bool = False):
        super().__init__(FP32)
        self.with_codes = with_codes

    def of(self, block, device):  # noqa: ARG002
        from wan_model.dit.fused_stages import FusedStages

        return partial(FusedStages, with_codes=self.with_codes)


def fused_stages(**options):
    return Fused(**options).of(None, CPU)


def kind_of(codes=False, adapters=False, **sizes):
    """Returns the kind of a block whose layers are all alike."""
    layers = (LayerKind(codes, adapters),) * len(LAYERS)
    return BlockKind(**{"dim": 128, "ffn_dim": 192, "num_heads": 2, **sizes}, layers=layers)


@interpreted
@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize(("codes", "most", "of_most"), [(False, 1e-6, 1e-6), (True, 7e-2, 1e-2)])
def test_every_stage_computes_what_the_block_computes(codes, adapters, most, of_most):
    """Two samples, and timesteps that differ between tokens.

    Interpreted, what e4m3 rounds up to a power of two is halved: a few large errors, which would
    hide a scale that is 3 % off. The smallest 95 % of the errors show it.
    """
    block = trial_block(kind_of(codes, adapters), FP32, CPU)
    results, expected = (
        torch.cat([part.flatten() for part in run_trial(each, block, FP32, CPU)])
        for each in (fused_stages(with_codes=codes)(block), block)
    )
    errors = (results - expected).abs().sort().values
    assert errors.norm() < most * expected.norm()
    assert errors[: errors.numel() * 95 // 100].norm() < of_most * expected.norm()


@interpreted
def test_a_trial_runs_at_the_widths_of_a_real_model():
    kind = kind_of(dim=5120, ffn_dim=13824, num_heads=40)
    assert trial_error(fused_stages(), CPU, BF16, kind) < TOLERANCE / 5


@interpreted
def test_a_model_predicts_the_same(monkeypatch):
    """In bf16, with runs of unequal length."""
    monkeypatch.setattr("wan_model.dit.tokens.RUN_TOKENS", 20)
    model = make_dit("ti2v", BF16, num_layers=1)
    inputs = make_inputs(model)._replace(timestep=first_frame_clean(1))
    runners = with_stages(run_in_order, Fused()), run_in_order
    with torch.no_grad():
        got, expected = (model.velocity(*inputs, runner) for runner in runners)
    assert (got - expected).norm() < 5e-3 * expected.norm()


class Watched(AllTokens):
    """Notes which of q, k and v are written, each time it is told that one is."""

    seen: ClassVar[list[list[bool]]] = []

    def __init__(self, *args):
        super().__init__(*args)
        for part in self._qkv:
            part.fill_(float("nan"))
        self.seen.clear()

    def written(self):
        self.seen.append([bool(part.isfinite().all()) for part in self._qkv])


@interpreted
@pytest.mark.parametrize("stages", ["own", "fused", "compiled"])
def test_q_k_and_v_may_be_sent_once_they_are_written(stages):
    def watched(blocks, x, inputs):
        return run_in_order(blocks, x, replace(inputs, video_attention=Watched))

    model = make_dit(num_layers=1)
    runner = {
        "own": watched,
        "fused": with_stages(watched, Fused()),
        "compiled": CompiledStages(backend="eager").around(watched),
    }[stages]
    with torch.no_grad():
        model.velocity(*make_inputs(model), runner)
    at_once, later = [[True] * 3] * 3, [[True, False, False], [True, True, False], [True] * 3]
    assert Watched.seen == (later if stages == "fused" else at_once)


@interpreted
@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_a_broken_token_stays_visible_in_codes(broken):
    from wan_model.dit.fused_kernels import quantize

    x = torch.randn(1, 4, 24, generator=torch.Generator().manual_seed(0))
    x[0, 1], x[0, 2, 5] = 0, broken
    rows: QuantizedRows = quantize(x)
    values = rows.codes.float() * rows.scale
    assert values.isfinite().all(-1).tolist() == [[True, True, False, True]]
    assert not values[0, 1].any()
    codes, scale = quantize_rows(x, rows.codes.dtype)
    torch.testing.assert_close(rows.scale[0, [0, 3]], scale[0, [0, 3]])
    assert (rows.codes.float() != codes.float())[0, [0, 3]].float().mean() < 0.04


@interpreted
def test_a_trial_sees_a_fault():
    def faulty(block):
        stages = fused_stages()(block)
        object.__setattr__(stages, "add_self_attention", partial(_without_gate, stages))
        return stages

    assert trial_error(faulty, CPU, FP32, kind_of()) > TOLERANCE


def _without_gate(stages, x, attention, attended, residual):
    rows = attention.rows.clone()
    rows[:, 2] = 1
    attention = replace(attention, rows=rows)
    return type(stages).add_self_attention(stages, x, attention, attended, residual)


def test_changed_blocks_reordered_tokens_and_training_keep_a_blocks_own(monkeypatch):
    model = make_dit()
    inputs = make_inputs(model)
    used = []

    def record(block, x, inputs, stages=None):
        used.append(stages)
        return Block.forward(block, x, inputs, stages)

    def reorder(x, _):
        return x.mT.contiguous().mT

    for block in model.blocks:
        monkeypatch.setattr(block, "forward", partial(record, block))
    stages = FastestStages(FP32)
    monkeypatch.setattr(stages, "of", lambda *_: lambda block: block)
    runner = with_stages(run_in_order, stages, lambda block: block is model.blocks[0])
    with torch.no_grad():
        model.velocity(*inputs, runner)
    assert [stages is None for stages in used] == [True, False]
    used.clear()
    model.velocity(*inputs, runner)
    with torch.no_grad():
        model.velocity(*inputs, lambda blocks, *rest: runner([reorder, *blocks], *rest))
    assert used == [None] * 4


def test_no_kernels_on_the_cpu():
    assert fastest_stages(CPU, FP32, kind_of()) is own_stages


@pytest.mark.parametrize(
    ("right", "tried"),
    [({True}, [True]), ({False}, [True, False]), (set(), [True, False])],
    ids=["codes", "values", "none"],
)
def test_tokens_are_quantized_where_that_works(monkeypatch, right, tried):
    """Else the same kind of block is tried without; a kind without codes is tried once."""
    seen = []

    def error(_stages, _device, _precision, kind):
        seen.append(kind.has_codes)
        return 0.0 if kind.has_codes in right else 1.0

    monkeypatch.setattr(stage_choice, "trial_error", error)
    found = fastest_stages(torch.device("cuda"), FP32, kind_of(codes=True))
    assert seen == tried
    if right:
        assert found.keywords == {"with_codes": True in right}
    else:
        assert found is own_stages
    seen.clear()
    fastest_stages(torch.device("cuda"), FP32, kind_of())
    assert seen == [False]


def test_each_kind_of_block_is_tried_once(monkeypatch):
    tried = []

    def choose(_device, _precision, kind):
        tried.append(kind)
        return own_stages if kind.layers[0].adapters else fused_stages()

    monkeypatch.setattr(stage_choice, "fastest_stages", choose)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    model, stages = make_dit(num_layers=3), FastestStages(FP32)
    gpu = torch.device("cuda", 0)
    assert stages.kind(model.blocks, gpu) == "fused"
    assert [stages.kind([block], gpu) for block in model.blocks] == ["fused"] * 3
    assert len(tried) == 1
    # A LoRA on one block, then somebody else's layer in another, which is never tried.
    rank = torch.zeros(16, 48)
    model.blocks[1].self_attn.q.adapters = (LowRank(rank, rank.T, torch.ones(16)),)
    assert stages.kind(model.blocks, gpu) == "own"
    assert len(tried) == 2
    model.blocks[2].cross_attn.o = torch.nn.Identity()
    assert stages.of(model.blocks[2], gpu) is own_stages
    assert stages.of(model.blocks[0], torch.device("cuda", 1)) is own_stages
    assert len(tried) == 2


def test_blocks_of_others_do_not_count_as_fused():
    stages = FastestStages(FP32)
    assert stages.kind([torch.nn.Identity()], torch.device("cuda", 0)) == "own"
    assert stages.kind([], torch.device("cpu")) == "own"


def test_experts_share_what_is_compiled_ahead_and_wait_for_it(monkeypatch):
    """A kind that both have is compiled once, and as it is with LoRAs."""
    steps, ahead = [], CompiledAhead()
    monkeypatch.setattr(ahead, "wait", lambda: steps.append("waited"))

    def begun(compile_all, _device, kept):
        compile_all()
        steps.append(kept)
        return ahead

    monkeypatch.setattr(stage_choice.CompiledAhead, "begun", begun)
    monkeypatch.setattr(stage_choice, "compile_stages", lambda kinds, _: steps.extend(kinds))
    monkeypatch.setattr(stage_choice, "fastest_stages", lambda *_: steps.append("tried"))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    models = [(FastestStages(FP32), make_dit().blocks) for _ in range(2)]
    gpu = torch.device("cuda", 0)
    compile_stages_ahead(models, gpu, nullcontext)
    kind = BlockKind.of(models[0][1][0])
    assert kind is not None
    assert steps == [kind, kind.with_adapters(), nullcontext]
    assert all(layer.adapters for layer in steps[1].layers)
    steps.clear()
    stages, blocks = models[1]
    for block in blocks:
        stages.of(block, gpu)
    assert steps == ["waited", "tried"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="No GPU.")
@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize("codes", [False, True])
def test_the_trial_passes_on_a_gpu(codes, adapters):
    if codes and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("This GPU multiplies no fp8.")
    kind = kind_of(codes, adapters, dim=5120, ffn_dim=13824, num_heads=40)
    stages = fused_stages(with_codes=codes)
    assert trial_error(stages, torch.device("cuda"), BF16, kind) < 2e-2
