"""Which of ComfyUI's patches become operands of a layer, told without ComfyUI."""

import importlib
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from .bare_pack import BarePack

OUT, IN = 6, 8
KEY = "diffusion_model.blocks.0.ffn.weight"


class Adapter:
    """As ComfyUI's: a tuple of what the file has."""

    def __init__(self, *weights: Any):
        self.weights = weights


class LoRAAdapter(Adapter):
    """(up, down, alpha, mid, dora_scale, reshape)."""


class LoHaAdapter(Adapter):
    """Its dora_scale comes last."""


class LoKrAdapter(Adapter):
    """(w1, w2, alpha, factors of both, a core tensor, dora_scale)."""

    def __init__(self, w1: Any = None, w2: Any = None, dora_scale: Any = None):
        super().__init__(w1, w2, *6 * [None], dora_scale)


class OFTAdapter(Adapter):
    """Turns the weight."""


@pytest.fixture
def low_rank(monkeypatch: pytest.MonkeyPatch) -> Any:
    pack = BarePack(monkeypatch)
    adapters: Any = ModuleType("comfy.weight_adapter")
    adapters.LoRAAdapter, adapters.LoHaAdapter = LoRAAdapter, LoHaAdapter
    adapters.LoKrAdapter, adapters.WeightAdapterBase = LoKrAdapter, Adapter
    monkeypatch.setitem(sys.modules, "comfy", ModuleType("comfy"))
    monkeypatch.setitem(sys.modules, adapters.__name__, adapters)
    yield pack.module("nodes._comfy.model.low_rank")
    for name in [name for name in sys.modules if name.startswith("pack.")]:
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.fixture
def module(low_rank: Any) -> nn.Module:  # noqa: ARG001 - makes the package importable
    """A transformer of one layer, in the package's own classes."""
    quant = importlib.import_module("pack.wan_model.quant")
    layer = quant.Linear(IN, OUT)
    codes = torch.zeros(OUT, IN, dtype=torch.float8_e4m3fn)
    layer.put(quant.StoredWeight(quant.PLAIN[codes.dtype], codes))
    block = nn.Module()
    block.ffn = layer
    module = nn.Module()
    module.blocks = nn.ModuleList([block])
    return module


def tensors(rank: int = 2) -> tuple[Tensor, Tensor]:
    return torch.ones(OUT, rank), torch.ones(rank, IN)


def lora(*, alpha: float | None = None, rank: int = 2, **others: Any) -> LoRAAdapter:
    other = {"mid": None, "dora_scale": None, "reshape": None, **others}
    return LoRAAdapter(*tensors(rank), alpha, *other.values())


def patch(what: Any, strength: float = 1.0, **others: Any) -> tuple[Any, ...]:
    return strength, what, others.get("model", 1.0), others.get("offset"), others.get("function")


PLAIN_LORA, DIFF = patch(lora()), patch(("diff", (torch.ones(OUT, IN),)))
DORA = patch(lora(dora_scale=torch.ones(1, IN)))
NOT_LORAS = {
    "dora": DORA,
    "mid": patch(lora(mid=torch.ones(2, 2))),
    "reshape": patch(lora(reshape=[8, 8])),
    "of another layer": patch(LoRAAdapter(torch.ones(OUT + 1, 2), torch.ones(2, IN), *4 * [None])),
    "offset": patch(lora(), offset=(0, 0, 3)),
    "function": patch(lora(), function=abs),
    "scaled weight": patch(lora(), model=0.5),
    "diff": DIFF,
    "set": patch(("set", (torch.ones(OUT, IN),))),
    "oft": patch(OFTAdapter()),
    "loha": patch(LoHaAdapter(None)),
    "lokr with dora": patch(LoKrAdapter(torch.ones(2, 2), torch.ones(3, 4), torch.ones(1, IN))),
    "lokr of a convolution": patch(LoKrAdapter(torch.ones(2, 2), torch.ones(3, 4, 1, 1))),
    "lokr of another layer": patch(LoKrAdapter(torch.ones(2, 2), torch.ones(3, 3))),
}


@pytest.mark.parametrize("other", NOT_LORAS.values(), ids=NOT_LORAS)
def test_what_is_no_plain_lora_is_merged(low_rank: Any, module: nn.Module, other: Any):
    loras, merged = low_rank.sort_patches(module, {KEY: [other]}, {})
    assert loras == {}
    assert merged == {KEY: [other]}


AFTER = [
    (DIFF, True),
    (patch(LoHaAdapter(None)), True),
    (patch(LoKrAdapter()), True),
    (patch(lora(), offset=(0, 0, 3)), True),
    (patch(LoKrAdapter(dora_scale=torch.ones(1))), False),
    (DORA, False),
    (patch(("set", (torch.ones(OUT, IN),))), False),
    (patch(("diff", (torch.ones(OUT, IN), {"pad_weight": True}))), False),
    (patch(lora(), model=0.5), False),
    (patch(OFTAdapter()), False),
]


@pytest.mark.parametrize(("other", "adds"), AFTER)
def test_what_follows_may_depend_on_it(low_rank: Any, module: nn.Module, other: Any, adds: bool):
    loras, merged = low_rank.sort_patches(module, {KEY: [PLAIN_LORA, other]}, {})
    assert bool(loras) == adds
    assert merged == {KEY: [other] if adds else [PLAIN_LORA, other]}
    loras, merged = low_rank.sort_patches(module, {KEY: [other, PLAIN_LORA]}, {})
    assert list(loras) == ["blocks.0.ffn"]
    assert merged == {KEY: [other]}


def test_scales(low_rank: Any, module: nn.Module):
    one, two = lora(alpha=1.0), lora(rank=4)
    active = {KEY: [patch(one, 0.5), patch(two, -2.0), patch(one, 0.25)]}
    loras, merged = low_rank.sort_patches(module, active, {KEY: [patch(two), patch(lora())]})
    assert merged == {}
    assert [found.scale for found in loras["blocks.0.ffn"]] == [0.375, -2.0, 0.0]


def test_whole_lokr_of_stock_nodes_is_an_operand(low_rank: Any, module: nn.Module):
    first, second = torch.ones(2, 2), torch.ones(3, 4)
    loras, merged = low_rank.sort_patches(
        module, {KEY: [patch(LoKrAdapter(first, second), 0.5)]}, {}
    )
    assert merged == {}
    (found,) = loras["blocks.0.ffn"]
    assert found == low_rank.KroneckerLora(first, second, 0.5)


def test_weights_of_16_bit_are_merged(low_rank: Any, module: nn.Module):
    quant = importlib.import_module("pack.wan_model.quant")
    weight = torch.zeros(OUT, IN, dtype=torch.bfloat16)
    layer: Any = module.get_submodule("blocks.0.ffn")
    layer.put(quant.StoredWeight(quant.PLAIN[weight.dtype], weight))
    loras, merged = low_rank.sort_patches(module, {KEY: [PLAIN_LORA]}, {KEY: [PLAIN_LORA]})
    assert loras == {}
    assert merged == {KEY: [PLAIN_LORA]}


def test_only_other_tensors_are_news(low_rank: Any, module: nn.Module):
    operands = low_rank.LoraOperands(torch.device("cpu"))
    one, other = lora(), lora()

    def news(*patches: Any) -> bool:
        return operands.set(module, low_rank.sort_patches(module, {KEY: list(patches)}, {})[0])

    def scale() -> list[float]:
        operands.place(module)
        layer: Any = module.get_submodule("blocks.0.ffn")
        return layer.adapters[0].scale.tolist()

    assert news(patch(one, 0.5))
    assert scale() == [0.5, 0.5, *14 * [0.0]]
    layer: Any = module.get_submodule("blocks.0.ffn")
    (first,) = layer.adapters
    assert not news(patch(one, -1.0))
    assert first.scale.tolist() == [-1.0, -1.0, *14 * [0.0]]
    assert news(patch(one, 1.0), patch(other, 2.0))
    assert scale() == [1.0, 1.0, 2.0, 2.0, *12 * [0.0]]
    assert news()
    operands.place(module)
    assert layer.adapters == ()
    assert not news()


def as_core(patches: list[Any], weight: Tensor, key: str, *, original_weights: Any) -> Tensor:
    """As ComfyUI's `calculate_weight`, of the two kinds of patches here: in place."""
    for strength, (kind, (given,)), *_ in patches:
        before = original_weights[key][0][0] if kind == "model_as_lora" else 0
        weight += strength * (given - before)
    return weight


def test_a_difference_of_models_is_that_of_the_weight_before_other_patches(
    low_rank: Any,  # noqa: ARG001 - makes the package importable
    monkeypatch: pytest.MonkeyPatch,
):
    lora: Any = ModuleType("comfy.lora")
    lora.calculate_weight = as_core
    monkeypatch.setitem(sys.modules, "comfy.lora", lora)
    monkeypatch.setattr(sys.modules["comfy"], "lora", lora, raising=False)
    dense = importlib.import_module("pack.nodes._comfy.model.dense_patches")
    weight = torch.full((OUT, IN), 3.0)
    patches = [DIFF, patch(("model_as_lora", (torch.full((OUT, IN), 7.0),)), 0.5)]
    assert torch.equal(dense.with_patches(weight, KEY, patches), torch.full((OUT, IN), 6.0))
