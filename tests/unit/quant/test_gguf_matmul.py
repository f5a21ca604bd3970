"""Triton's dequantization of GGUF, interpreted on the CPU, and when it is taken."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.quant.gguf_blocks import random_blocks
from wan_model.quant import DEQUANTIZED, GGUF_FORMATS, Linear, StoredWeight
from wan_model.quant.gguf_formats import GgufFormat
from wan_model.quant.gguf_matmul import TOLERANCE, FusedMatmul, fastest_matmul, trial_error

KINDS = {kind.name: kind for kind in GGUF_FORMATS}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def kernels() -> Any:
    """The module, which cannot be imported without Triton."""
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("Not interpreted on a GPU.")
    from wan_model.quant import gguf_kernels

    return gguf_kernels


@pytest.fixture(scope="module")
def fused(kernels: Any) -> FusedMatmul:
    return FusedMatmul(kernels.dequantize, frozenset(kernels.KERNELS))


@pytest.mark.parametrize("name", ["Q8_0", "Q6_K", "Q5_K", "Q4_K"])
def test_they_are_exact(kernels: Any, name: str):
    """In more than one program, the last of which is not full."""
    packed = random_blocks(KINDS[name], 19, 512)
    expected = StoredWeight(KINDS[name], packed).dequantize(torch.float32)
    got = kernels.dequantize(name, packed, (19, 512), torch.float32)
    assert torch.equal(got, expected)
    half = kernels.dequantize(name, packed, (19, 512), torch.float16)
    torch.testing.assert_close(half, expected.half())


@pytest.mark.parametrize("kind", GGUF_FORMATS, ids=lambda kind: kind.name)
def test_a_layer_multiplies_with_any_type(fused: FusedMatmul, kind: GgufFormat):
    layer = Linear(512, 8)
    layer.bias = torch.nn.Parameter(torch.arange(8.0), requires_grad=False)
    layer.put(StoredWeight(kind, random_blocks(kind, 8, 512)))
    x = torch.sin(torch.arange(3 * 512.0)).view(3, 512)
    expected = layer(x)
    layer.matmul = fused
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", ["IQ4_XS"])
def test_compiled_it_is_pytorch_s_in_one_graph(fused: FusedMatmul, name: str):
    layer = Linear(256, 8)
    layer.bias = None
    layer.put(StoredWeight(KINDS[name], random_blocks(KINDS[name], 8, 256)))
    expected = layer(torch.eye(256))
    layer.matmul = fused
    compiled = torch.compile(lambda x: layer(x), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(torch.eye(256)), expected)


@pytest.mark.parametrize("name", ["Q8_0", "Q6_K", "Q5_K", "Q4_K"])
def test_a_trial_finds_what_is_wrong(fused: FusedMatmul, name: str):
    assert trial_error(fused, CPU, [KINDS[name]]) < 1e-6

    def moved(*args: Any) -> Tensor:
        return fused.dequantize(*args).roll(1, -1)

    def without_its_highest_bit(name: str, packed: Tensor, *args: Any) -> Tensor:
        packed = packed.clone()
        packed[0, 60:70] &= 0x7F
        return fused.dequantize(name, packed, *args)

    for wrong in (moved, without_its_highest_bit):
        assert trial_error(FusedMatmul(wrong, fused.formats), CPU, [KINDS[name]]) > TOLERANCE


def test_a_trial_passes_over_what_pytorch_does(fused: FusedMatmul):
    assert trial_error(fused, CPU, [KINDS["Q3_K"]]) == 0


def test_pytorch_does_it_elsewhere():
    assert fastest_matmul(CPU, GGUF_FORMATS) is DEQUANTIZED
    assert fastest_matmul(torch.device("cuda", 0), ()) is DEQUANTIZED
