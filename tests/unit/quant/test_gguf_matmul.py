"""Weights of GGUF, expanded by Triton, interpreted on the CPU, and what is multiplied in 8 bits."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.quant.gguf_blocks import random_blocks
from wan_model.quant import (
    DEQUANTIZED,
    GGUF_FORMATS,
    PLAIN,
    Linear,
    StoredWeight,
    fastest_matmul,
    quantize_rows,
)
from wan_model.quant.formats import FP8_SCALED, INT8_SCALED
from wan_model.quant.gguf_formats import GgufFormat
from wan_model.quant.gguf_matmul import (
    Expander,
    FusedExpander,
    GgufMatmul,
    expand,
    is_coarse,
    trial_error,
)
from wan_model.quant.kernels import Int8Matmul, kernels_for

KINDS = {kind.name: kind for kind in GGUF_FORMATS}
EVERY = pytest.mark.parametrize("kind", GGUF_FORMATS, ids=lambda kind: kind.name)
SOME = pytest.mark.parametrize("kind", [KINDS["Q5_1"], KINDS["Q3_K"]], ids=["Q5_1", "Q3_K"])
"""Of small blocks and of large ones."""
CPU, FP8 = torch.device("cpu"), torch.float8_e4m3fn
INT8_ON_CPU = next(k for k in kernels_for(INT8_SCALED) if k.make is Int8Matmul)


@pytest.fixture(scope="module")
def fused() -> FusedExpander:
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("Not interpreted on a GPU.")
    from wan_model.quant import gguf_kernels

    return FusedExpander(gguf_kernels.expand)


def expanded(by: Expander, kind: GgufFormat, packed: Tensor, dtype: torch.dtype) -> tuple[Any, Any]:
    shape = kind.shape(tuple(packed.shape))
    scale = torch.empty(shape[0], 1) if dtype.itemsize == 1 else None
    weight = torch.empty(shape, dtype=dtype)
    by(kind, packed, weight, scale)
    return weight, scale


@EVERY
def test_one_kernel_is_exact(fused: FusedExpander, kind: GgufFormat):
    """Rows of no power of two. Interpreted, what e4m3 rounds up to a power of two is halved."""
    packed = random_blocks(kind, 5, 768)
    exact = StoredWeight(kind, packed).dequantize(torch.float32)
    assert torch.equal(expanded(fused, kind, packed, torch.float32)[0], exact)
    half, _ = expanded(fused, kind, packed, torch.float16)
    torch.testing.assert_close(half, exact.half())
    for dtype, most in ((torch.int8, 0.01), (FP8, 0.04)):
        (codes, scale), (expected, its_scale) = (
            expanded(one, kind, packed, dtype) for one in (fused, expand)
        )
        assert torch.equal(scale, its_scale)
        assert (codes.float() != expected.float()).float().mean() < most


def test_pytorch_writes_rows_and_their_scales():
    """In more than one run, and what is broken stays visible."""
    kind = KINDS["Q8_0"]
    packed = random_blocks(kind, 4, 256).repeat(1 << 13, 1)
    exact = StoredWeight(kind, packed).dequantize(torch.float32)
    for dtype in (torch.int8, FP8):
        codes, scale = expanded(expand, kind, packed, dtype)
        expected, its_scale = quantize_rows(exact, dtype)
        assert torch.equal(codes.float(), expected.float())
        assert torch.equal(scale, its_scale)
    packed[1, :2] = 255
    assert expanded(expand, kind, packed, FP8)[1].isfinite().logical_not().nonzero()[0, 0] == 1


def layer_of(kind: GgufFormat, matmul: GgufMatmul) -> Linear:
    layer = Linear(512, 8)
    layer.bias = torch.nn.Parameter(torch.arange(8.0), requires_grad=False)
    layer.put(StoredWeight(kind, random_blocks(kind, 8, 512)))
    layer.matmul = matmul
    return layer


@SOME
def test_a_layer_multiplies_with_any_type_outside_of_a_visit(
    fused: FusedExpander, kind: GgufFormat
):
    layer = layer_of(kind, GgufMatmul(fused))
    x = torch.sin(torch.arange(3 * 512.0)).view(3, 512)
    torch.testing.assert_close(layer(x), DEQUANTIZED(layer, x))


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_outside_of_a_visit_it_is_pytorch_s_in_one_graph(fused: FusedExpander):
    layer = layer_of(KINDS["IQ4_XS"], GgufMatmul(fused))
    expected = layer(torch.eye(512))
    compiled = torch.compile(lambda x: layer(x), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(torch.eye(512)), expected)


def test_a_trial_finds_nothing_wrong(fused: FusedExpander):
    assert trial_error(fused, CPU, GGUF_FORMATS, torch.int8) < 1


@SOME
def test_a_trial_finds_what_is_wrong(fused: FusedExpander, kind: GgufFormat):
    def moved(kind: GgufFormat, packed: Tensor, codes: Tensor, scale: Tensor | None):
        fused(kind, packed, codes, scale)
        codes.copy_(codes.float().roll(1, -1))

    def without_a_bit(kind: GgufFormat, packed: Tensor, *rest: Any):
        packed = packed.clone()
        at = 40 if kind.block_bytes > 40 else kind.block_bytes - 3
        packed[0, at : at + 3] ^= 0x18
        fused(kind, packed, *rest)

    for wrong in (moved, without_a_bit):
        assert trial_error(wrong, CPU, [kind]) > 1
    assert trial_error(moved, CPU, [kind], torch.int8) > 1


def test_few_bits_are_multiplied_in_8_and_others_beside_them():
    """Q6_K and Q8_0 stay 16-bit, but Q6_K in a file of mostly coarser weights."""
    assert [kind.name for kind in GGUF_FORMATS if not is_coarse(kind, [kind])] == ["Q8_0", "Q6_K"]
    mixed = [KINDS["Q4_K"], KINDS["Q6_K"], KINDS["Q8_0"], PLAIN[torch.float16]]
    assert [is_coarse(kind, mixed) for kind in mixed] == [True, True, False, False]
    assert not is_coarse(KINDS["Q6_K"], mixed[::-1])


@pytest.mark.parametrize(("name", "in_8"), [("Q4_K", True), ("Q5_1", True), ("Q6_K", False)])
def test_what_a_weight_is_expanded_to(name: str, in_8: bool):
    layer = layer_of(KINDS[name], GgufMatmul(eight_bit=INT8_ON_CPU))
    expansion = layer.expansion()
    assert expansion is not None
    assert expansion.format is (INT8_SCALED if in_8 else PLAIN[torch.float32])
    assert (expansion.matmul == Int8Matmul()) == in_8
    fewer = replace(INT8_ON_CPU, requires=replace(INT8_ON_CPU.requires, multiple=16))
    layer.matmul = GgufMatmul(eight_bit=fewer)
    narrow = layer.expansion()
    assert narrow is not None
    assert narrow.format is PLAIN[torch.float32]


def test_pytorch_does_it_where_no_kernel_runs():
    assert fastest_matmul(CPU, GGUF_FORMATS) == GgufMatmul(expand)
    assert fastest_matmul(torch.device("cuda", 0), [FP8_SCALED]) is DEQUANTIZED
    with_kernel = partial(fastest_matmul, CPU, kernels=[INT8_ON_CPU])
    found = with_kernel([KINDS["Q4_0"], KINDS["Q6_K"]])
    assert isinstance(found, GgufMatmul)
    assert found.eight_bit is INT8_ON_CPU
    assert found.coarse_bits > KINDS["Q6_K"].bits
