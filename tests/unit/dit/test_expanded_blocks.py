"""Weights of GGUF are expanded once for each visit of their block, wherever it lies."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.dit.toy import BF16, FP32, make_dit, make_inputs
from tests.unit.offload.fakes import plan_for
from tests.unit.quant.gguf_blocks import random_blocks
from wan_model.config import Precision
from wan_model.dit import WanDiT, run_in_order
from wan_model.dit.compiled_stages import CompiledStages
from wan_model.dit.expanded_blocks import expanded_bytes, with_expanded
from wan_model.dit.stage_choice import FastestStages, with_stages
from wan_model.offload import HostModel, OffloadEngine, open_device
from wan_model.quant import GGUF_FORMATS, SCALED, Linear, StoredWeight, quantize_rows
from wan_model.quant.formats import FP8_SCALED, INT8_SCALED
from wan_model.quant.gguf_matmul import GgufMatmul, expand
from wan_model.quant.kernels import Fp8Matmul, Int8Matmul, kernels_for

KINDS = {kind.name: kind for kind in GGUF_FORMATS}
INT8 = next(kernel for kernel in kernels_for(INT8_SCALED) if kernel.make is Int8Matmul)
SIZES = {"dim": 64, "ffn_dim": 128, "num_layers": 3}


class CountingExpander:
    """Counts by the address of what is expanded."""

    def __init__(self) -> None:
        self.calls: Counter[int] = Counter()

    def __call__(self, kind: Any, packed: Tensor, *target: Any) -> None:
        self.calls[packed.data_ptr()] += 1
        expand(kind, packed, *target)


def blocks_linears(model: WanDiT) -> list[Linear]:
    return [part for part in model.blocks.modules() if isinstance(part, Linear)]


def packed_dit(matmul: GgufMatmul, precision: Precision = FP32, **sizes: int) -> WanDiT:
    """Q4_0, and Q8_0 where most mixes have more bits."""
    model = make_dit("t2v", precision, **(SIZES | sizes))
    for name, layer in model.blocks.named_modules():
        if isinstance(layer, Linear):
            kind = KINDS["Q8_0" if name.endswith((".v", "ffn.2")) else "Q4_0"]
            shape = layer.out_features, layer.in_features
            layer.put(StoredWeight(kind, random_blocks(kind, *shape, scale=1e-3)))
            layer.matmul = matmul
    return model


@torch.no_grad()
def test_once_for_all_runs_of_tokens_and_then_gone(monkeypatch: pytest.MonkeyPatch):
    count = CountingExpander()
    model = packed_dit(GgufMatmul(count))
    inputs = make_inputs(model, batch=2)
    monkeypatch.setattr("wan_model.dit.tokens.RUN_TOKENS", 7)
    expected = model.velocity(*inputs, run_in_order)
    assert max(count.calls.values()) > 1
    count.calls.clear()
    got = model(*inputs)
    assert torch.equal(got, expected)
    assert set(count.calls.values()) == {1}
    assert len(count.calls) == len(blocks_linears(model))
    assert not any(layer.expanded for layer in blocks_linears(model))


@torch.no_grad()
def test_in_8_bits_as_a_file_of_8_bits():
    """Also in layers of more bits beside coarser ones."""
    model = packed_dit(GgufMatmul(eight_bit=INT8, coarse_bits=9), BF16)
    inputs = make_inputs(model)
    got = model(*inputs)
    in_16 = packed_dit(GgufMatmul(), BF16)(*inputs)
    for layer in blocks_linears(model):
        codes, scale = quantize_rows(layer.stored().dequantize(torch.float32), torch.int8)
        layer.put(StoredWeight(SCALED[torch.int8], codes, scale))
        layer.matmul = Int8Matmul()
    assert torch.equal(got, model(*inputs))
    assert 0 < (got - in_16).norm() < 0.03 * in_16.norm()


@torch.no_grad()
def test_streamed_blocks_are_expanded_where_they_run():
    count = CountingExpander()
    model = packed_dit(GgufMatmul(count, INT8))
    inputs = make_inputs(model)
    expected = model(*inputs)
    host = HostModel(model, model.blocks)
    device = torch.device("cpu")
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=2), open_device(device))
    for _ in range(2):
        count.calls.clear()
        forward = lambda run: model.velocity(*inputs, run)  # noqa: E731
        assert torch.equal(engine.run(0, forward, with_expanded(run_in_order)), expected)
        assert sum(count.calls.values()) == len(blocks_linears(model))
    engine.unload()
    engine.release_pinned()


@torch.no_grad()
def test_a_pass_that_fails_leaves_nothing_behind():
    model = packed_dit(GgufMatmul())

    def fail(blocks: Any, *_: Any) -> Tensor:
        next(blocks)
        assert [bool(layer.expanded) for layer in blocks_linears(model)] == [True] * 10 + [
            False
        ] * 20
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.velocity(*make_inputs(model), with_expanded(fail))
    assert not any(layer.expanded for layer in blocks_linears(model))


@torch.no_grad()
def test_fused_stages_hand_them_tokens_in_e4m3():
    if torch.cuda.is_available():
        pytest.skip("Not interpreted on a GPU.")
    pytest.importorskip("triton")
    from wan_model.dit.fused_stages import FusedStages

    taken: list[torch.Size] = []

    @dataclass(frozen=True)
    class Recording(Fp8Matmul):
        def of_rows(self, layer: Any, rows: Any) -> Tensor:
            taken.append(rows.codes.shape)
            return super().of_rows(layer, rows)

    kernel = replace(kernels_for(FP8_SCALED)[0], make=Recording)
    model = packed_dit(GgufMatmul(eight_bit=kernel), BF16, num_layers=1)
    inputs = make_inputs(model)
    expected = model(*inputs)
    taken.clear()

    class Fused(FastestStages):
        def of(self, block: Any, device: torch.device) -> Any:  # noqa: ARG002
            return partial(FusedStages, with_codes=True)

    got = model.velocity(*inputs, with_expanded(with_stages(run_in_order, Fused(BF16))))
    # Of ten matmuls of a block three are of Q8_0, in 16 bit, and k of the text is no stage's.
    assert len(taken) == len(model.blocks) * 7
    # Interpreted, what e4m3 rounds up to a power of two is halved.
    assert (got - expected).norm() < 0.2 * expected.norm()


@pytest.mark.usefixtures("fresh_compiler")
@torch.inference_mode()
def test_compiled_there_is_one_graph_per_stage_whatever_the_mix():
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    model = packed_dit(GgufMatmul(eight_bit=INT8, coarse_bits=9), BF16, num_layers=2)
    inputs = make_inputs(model)
    expected = model(*inputs)
    stages = CompiledStages(backend="eager")
    got = model.velocity(*inputs, with_expanded(stages.around(run_in_order)))
    torch.testing.assert_close(got, expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before == 3


def test_memory_is_counted_and_gradients_leave_weights_alone():
    model = packed_dit(GgufMatmul(eight_bit=INT8), BF16)
    dim, ffn = SIZES["dim"], SIZES["ffn_dim"]
    coarse, fine = 6 * dim * dim + dim * ffn, 2 * dim * dim + dim * ffn
    scales = 4 * (6 * dim + ffn)
    assert expanded_bytes(model.blocks) == coarse + 2 * fine + scales
    more = model.activation_bytes(1, 3, 6, 8) - make_dit("t2v", BF16, **SIZES).activation_bytes(
        1, 3, 6, 8
    )
    assert more == expanded_bytes(model.blocks)
    inputs = make_inputs(model)
    latent = inputs.latent.clone().requires_grad_()
    model(latent, *inputs[1:]).sum().backward()
    assert latent.grad is not None
    assert latent.grad.norm() > 0
    assert expanded_bytes(make_dit().blocks) == 0
