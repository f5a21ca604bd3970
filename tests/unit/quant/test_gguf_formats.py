"""The block types of GGUF, against the reference code of ggml's own Python package."""

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize

from tests.unit.quant.gguf_blocks import random_blocks
from wan_model.loading.source_gguf import TYPES
from wan_model.quant import GGUF_FORMATS, StoredWeight
from wan_model.quant.gguf_formats import GgufFormat

EVERY = pytest.mark.parametrize("kind", GGUF_FORMATS, ids=lambda kind: kind.name)


def reference(packed: torch.Tensor, kind: GgufFormat) -> torch.Tensor:
    return torch.from_numpy(
        dequantize(packed.numpy(), gguf.GGMLQuantizationType[kind.name])
    ).reshape(kind.shape(tuple(packed.shape)))


@EVERY
def test_every_pattern_of_bits_is_exact(kind: GgufFormat):
    packed = random_blocks(kind, 512, 2 * kind.block)
    stored = StoredWeight(kind, packed)
    expected = reference(packed, kind)
    assert torch.equal(stored.dequantize(torch.float32), expected)
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(stored.dequantize(dtype), expected.to(dtype))


@EVERY
def test_large_weights_are_the_same_in_runs(kind: GgufFormat):
    """More than one run, the last of which is shorter."""
    few = random_blocks(kind, 8, kind.block)
    times = (1 << 22) // kind.block // 8 + 1
    got = StoredWeight(kind, few.repeat(times, 1)).dequantize(torch.bfloat16)
    expected = reference(few, kind).bfloat16()
    assert torch.equal(got.unflatten(0, (times, 8)), expected.expand(times, -1, -1))


@EVERY
def test_sizes(kind: GgufFormat):
    numbers, nbytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind.name]]
    assert (kind.block, kind.block_bytes) == (numbers, nbytes)
    on_meta = StoredWeight(kind, torch.empty(3, 2 * nbytes, dtype=torch.uint8, device="meta"))
    assert on_meta.dequantize(torch.bfloat16).shape == (3, 2 * numbers)
    assert kind.bits == 8 * nbytes / numbers
    assert kind.is_quantized
    assert kind.shape((3, 7, 2 * nbytes)) == (3, 7, 2 * numbers)
    assert kind.fits((3, 512))
    assert not kind.fits((3, 500))


def test_the_table_of_types_is_gguf_s():
    ours = {number: (kind.name, kind.items, kind.nbytes) for number, kind in TYPES.items()}
    assert ours == {
        int(kind): (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType
    }


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_what_gguf_quantizes_is_near(name: str):
    kind = next(one for one in GGUF_FORMATS if one.name == name)
    dense = np.sin(np.arange(64 * 256, dtype=np.float32)).reshape(64, 256)
    packed = gguf.quants.quantize(dense, gguf.GGMLQuantizationType[name])
    got = StoredWeight(kind, torch.from_numpy(packed)).dequantize(torch.float32)
    step = 2.0 ** (1 - int(name[1]))
    assert (got - torch.from_numpy(dense)).abs().max() < 1.1 * step
