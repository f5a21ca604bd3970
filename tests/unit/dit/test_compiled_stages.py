"""Compiled stages: one graph each, whatever the size, block, expert or place of the weights."""

import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager

from tests.unit.dit.toy import BF16, FP32, first_frame_clean, make_dit, make_inputs
from tests.unit.quant.loras import give_all
from wan_model.attention import Guarded
from wan_model.dit import run_in_order
from wan_model.dit.compiled_stages import CompiledStages
from wan_model.offload import Extra, HostModel
from wan_model.quant import SCALED, Linear, LowRank

STAGES = 3
"""Of a block."""


class CountingBackend:
    """Counts the graphs it is given, and runs them as they are, or `traced` as for a compiler."""

    def __init__(self):
        self.graphs = 0
        self.traced = False

    def __call__(self, graph, example_inputs):
        self.graphs += 1
        return aot_eager(graph, example_inputs) if self.traced else graph.forward


@pytest.fixture
def backend(fresh_compiler, monkeypatch) -> CountingBackend:  # noqa: ARG001
    monkeypatch.setattr("wan_model.dit.tokens.RUN_TOKENS", 16)
    return CountingBackend()


def predict(model, inputs, runner, frames=None):
    latent = inputs.latent[:, :, :frames]
    return model.velocity(latent, inputs.timestep, inputs.text, None, runner)


def check(model, inputs, runner, frames=None):
    got = predict(model, inputs, runner, frames)
    expected = predict(model, inputs, run_in_order, frames)
    torch.testing.assert_close(got, expected, rtol=0, atol=3e-6)


def store_as_fp8(model):
    for layer in model.blocks.modules():
        if isinstance(layer, Linear):
            layer.weight_scale = layer.weight.abs().amax() / 448
            layer.format = SCALED[layer.weight.dtype]
            stored = (layer.weight / layer.weight_scale).to(torch.float8_e4m3fn)
            layer.weight = torch.nn.Parameter(stored, requires_grad=False)


def visit_slabs(host, runner, blocks, x, inputs):
    """Gives every block new memory for its weights, as streaming does."""
    for block, slab in zip(blocks, host.slabs, strict=True):
        with torch.inference_mode(False), ThreadPoolExecutor(1) as readers:
            memory = torch.empty(slab.layout.nbytes, dtype=torch.uint8)
            slab.read(memory, 0, readers)
            views = slab.views(memory)
        slab.bind(views)
        x = runner([block], x, inputs)
        slab.unbind()
    return x


@pytest.mark.parametrize(
    ("mode", "sizes"), [(torch.no_grad, (3, 2, 1)), (torch.inference_mode, (1, 2, 3))]
)
def test_blocks_experts_and_sizes_share_one_graph_per_stage(backend, mode, sizes):
    backend.traced = True
    # The smallest video is a single run, a whole tensor; the runs of the others are parts of one.
    runner = CompiledStages(backend=backend).around(run_in_order)
    with mode():
        for model in (make_dit(), make_dit(num_layers=3)):
            for frames in sizes:
                check(model, make_inputs(model), runner, frames)
    assert backend.graphs == STAGES


def test_streamed_weights_need_no_graph_of_their_own(backend):
    backend.traced = True
    model = make_dit()
    store_as_fp8(model)
    host = HostModel(model, model.blocks)
    inputs = make_inputs(model)
    runner = CompiledStages(backend=backend).around(run_in_order)
    with torch.inference_mode():
        check(model, inputs, runner)
        check(model, inputs, partial(visit_slabs, host, runner))
    assert backend.graphs == STAGES


@torch.inference_mode()
def test_frames_with_timesteps_of_their_own_are_looked_up_inside(backend):
    backend.traced = True
    model = make_dit("ti2v", BF16)
    inputs = make_inputs(model)._replace(timestep=first_frame_clean(1))
    runner = CompiledStages(backend=backend).around(run_in_order)
    check(model, inputs, runner)
    assert backend.graphs == STAGES


@torch.inference_mode()
def test_a_second_object_uses_the_graphs_of_the_first_also_if_attention_falls_back(backend):
    said, fell_back = [], []
    for _ in range(2):
        model = make_dit()
        inputs = make_inputs(model)
        runner = CompiledStages(backend=backend, report=said.append).around(run_in_order)
        check(model, inputs, runner)
        check(model, make_inputs(model, seed=1), runner)
    model.attend = Guarded("broken", lambda *qkv: torch.full_like(qkv[0], torch.nan))
    got = model.attend.check(lambda: predict(model, inputs, runner), fell_back.append)
    torch.testing.assert_close(got, predict(model, inputs, run_in_order), rtol=0, atol=3e-6)
    assert len(fell_back) == 1
    assert backend.graphs == STAGES
    assert re.fullmatch(rf"Compiled {STAGES} graphs in \d+\.\d s\.", said[0])
    assert said[1:] == ["Compiled before: nothing to wait for."]


@torch.inference_mode()
def test_every_size_of_model_and_batch_gets_its_graphs_and_is_reported(backend):
    said = []
    runner = CompiledStages(backend=backend, report=said.append).around(run_in_order)
    with torch._dynamo.config.patch(recompile_limit=1):
        for dim, batch in ((48, 1), (96, 1), (96, 2), (48, 1)):
            model = make_dit(dim=dim)
            check(model, make_inputs(model, batch), runner)
        assert torch._dynamo.config.recompile_limit == 1
    assert backend.graphs == 3 * STAGES
    assert len(said) == 3
    assert all(line.startswith(f"Compiled {STAGES} graphs") for line in said)


@pytest.mark.usefixtures("backend")
@torch.inference_mode()
def test_what_cannot_be_compiled_is_said_and_run_as_it_is():
    tried = []

    def broken(graph, _inputs):
        tried.append(graph)
        raise NotImplementedError("no such kernel")

    said = []
    model = make_dit()
    runner = CompiledStages(backend=broken, report=said.append).around(run_in_order)
    for _ in range(2):
        check(model, make_inputs(model), runner)
    (line,) = said
    assert line.startswith("It runs uncompiled, which is slower: ")
    assert "no such kernel" in line
    assert len(tried) == 1


@torch.inference_mode()
def test_blocks_may_be_left_out(backend):
    said = []
    model = make_dit(num_layers=3)

    def why_not(block):
        return "" if block is model.blocks[2] else "Not this one."

    stages = CompiledStages(backend=backend, why_not=why_not, report=said.append)
    seen = []

    def run(blocks, x, inputs):
        for block in blocks:
            x = block(x, inputs)
            seen.append(backend.graphs)
        return x

    check(model, make_inputs(model), stages.around(run))
    assert seen == [0, 0, STAGES]
    (line,) = said
    assert line.startswith("Not this one. Compiled 3 graphs in ")


def test_nothing_is_compiled_while_gradients_are_recorded(backend):
    model = make_dit(precision=FP32).requires_grad_(True)
    inputs = make_inputs(model)
    predict(model, inputs, CompiledStages(backend=backend).around(run_in_order)).sum().backward()
    assert model.blocks[0].self_attn.q.weight.grad is not None
    assert backend.graphs == 0


def test_loras_need_one_more_graph_per_stage_whatever_their_strength_or_place(backend):
    model = make_dit()
    host = HostModel(model, model.blocks)
    inputs = make_inputs(model)
    runner = CompiledStages(backend=backend).around(run_in_order)
    with torch.inference_mode():
        check(model, inputs, runner)
        bare = predict(model, inputs, runner)
        check(model, inputs, partial(visit_slabs, host, runner))
    for seed, scale in ((0, 0.5), (0, -0.25), (1, 0.5)):
        give_all(model.blocks, 16, scale, seed)
        with torch.inference_mode():
            check(model, inputs, runner)
            expected = predict(model, inputs, run_in_order)
        assert not torch.allclose(expected, bare, atol=1e-3)
    extras: dict[int | None, list[Extra]] = {}
    for number, block in enumerate(model.blocks):
        for layer in (part for part in block.modules() if isinstance(part, Linear)):
            (one,), layer.adapters = layer.adapters, ()
            make = partial(lambda scale, a, b: (LowRank(a, b, scale),), one.scale)
            extras.setdefault(number, []).append(Extra(layer, "adapters", (one.a, one.b), make))
    host.carry(extras)
    with torch.inference_mode():
        streamed = predict(model, inputs, partial(visit_slabs, host, runner))
    give_all(model.blocks, 16, 0.0)
    with torch.inference_mode():
        without = predict(model, inputs, runner)
    torch.testing.assert_close(streamed, expected, rtol=0, atol=3e-6)
    torch.testing.assert_close(without, bare, rtol=0, atol=0)
    assert backend.graphs == 2 * STAGES
