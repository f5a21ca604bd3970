"""Linear layers: weight formats, scales of every shape, and what dtype comes out."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wan_model.quant import (
    DEQUANTIZED,
    PLAIN,
    SCALED,
    Linear,
    StoredWeight,
    WeightFormat,
    scale_weight,
    unscale_weight,
)

OUT, IN = 6, 12
FP8 = [torch.float8_e4m3fn, torch.float8_e5m2]
FLOATS = [torch.float32, torch.bfloat16, torch.float16]


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


BIAS = random(OUT, seed=1)


def make_linear(storage=torch.float32, compute_dtype=torch.float32, scale=None):
    """Returns a layer with a random weight of `storage`, scaled if there is a scale."""
    layer = Linear(IN, OUT, compute_dtype=compute_dtype)
    formats = PLAIN if scale is None else SCALED
    layer.put(StoredWeight(formats[storage], random(OUT, IN).to(storage), scale))
    layer.bias = nn.Parameter(BIAS.clone(), requires_grad=False)
    return layer


SCALES = {
    "per tensor, no axes": random().exp(),
    "per tensor, one axis": random(1).exp(),
    "per tensor, two axes": random(1, 1).exp(),
    "per row": random(OUT, 1).exp(),
    "per block of 4": random(OUT, 3, 1).exp(),
    "per block of 1": random(OUT, IN, 1).exp(),
    "per block of a row": random(OUT, 1, 1).exp(),
}


@dataclass
class Operands:
    """Copies of a layer's tensors, as a memory manager makes them on another device."""

    weight: Tensor
    bias: Tensor | None
    weight_scale: Tensor | None
    format: WeightFormat
    compute_dtype: torch.dtype


def exact_weight(weight, scale):
    """Returns weight * scale in float64, one value after the other."""
    result = weight.double()
    for row in range(OUT):
        for column in range(IN):
            if scale.numel() == 1:
                factor = scale.flatten()[0]
            elif scale.ndim == 2:
                factor = scale[row, 0]
            else:
                factor = scale[row, column // (IN // scale.shape[1]), 0]
            result[row, column] *= factor.double()
    return result


@pytest.mark.parametrize("scale", SCALES.values(), ids=list(SCALES))
@pytest.mark.parametrize("storage", [*FP8, torch.int8, torch.bfloat16])
def test_scales_of_every_shape(scale, storage):
    weight = (20 * random(OUT, IN)).to(storage)
    got = scale_weight(weight, scale)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), exact_weight(weight, scale), rtol=1e-6, atol=0)


@pytest.mark.parametrize("scale", SCALES.values(), ids=list(SCALES))
def test_unscaling_undoes_scaling(scale):
    weight = random(OUT, IN)
    got = unscale_weight(scale_weight(weight, scale), scale)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, weight, rtol=1e-6, atol=0)


@pytest.mark.parametrize("scale", SCALES.values(), ids=list(SCALES))
@pytest.mark.parametrize("storage", FP8)
@pytest.mark.parametrize("compute_dtype", FLOATS)
def test_scaled_layer(scale, storage, compute_dtype):
    layer = make_linear(storage, compute_dtype, scale)
    exact = exact_weight(layer.weight, scale)
    assert torch.equal(layer.stored().dequantize(compute_dtype), exact.to(compute_dtype))
    x = random(2, 3, IN, seed=2).to(compute_dtype)
    got, expected = layer(x), F.linear(x.double(), exact, BIAS.double())
    assert got.dtype == compute_dtype
    error = ((got - expected).square().mean() / expected.square().mean()).sqrt()
    assert error < torch.finfo(compute_dtype).eps


def test_a_scaled_layer_without_scale_is_a_mistake():
    layer = make_linear()
    layer.format = SCALED[torch.float32]
    with pytest.raises(RuntimeError, match="weight_scale"):
        layer(random(1, IN))


@pytest.mark.parametrize("storage", [*FP8, *FLOATS])
@pytest.mark.parametrize("compute_dtype", FLOATS)
@pytest.mark.parametrize("given", FLOATS)
def test_the_compute_dtype_decides(storage, compute_dtype, given):
    layer = make_linear(storage, compute_dtype)
    x = random(2, 3, IN, seed=2).to(given)
    got = layer(x)
    assert got.dtype == compute_dtype
    assert got.shape == (2, 3, OUT)
    expected = F.linear(x.to(compute_dtype), layer.weight.to(compute_dtype), BIAS.to(compute_dtype))
    assert torch.equal(got, expected)
    assert layer.weight.dtype == storage


def test_plain_fp32_equals_torch():
    layer, theirs = make_linear(), nn.Linear(IN, OUT)
    theirs.load_state_dict(layer.state_dict())
    x = random(4, IN, seed=2)
    assert torch.equal(layer(x), theirs(x))


def test_a_weight_of_the_right_dtype_is_not_copied():
    layer = make_linear(torch.bfloat16)
    dense = layer.stored().dequantize(torch.bfloat16)
    assert dense.data_ptr() == layer.weight.data_ptr()


def test_a_layer_without_bias():
    layer = make_linear()
    layer.bias = None
    x = random(4, IN, seed=2)
    assert torch.equal(layer(x), F.linear(x, layer.weight))


def test_a_matmul_takes_copies_of_the_tensors_too():
    layer = make_linear(FP8[0], torch.bfloat16, SCALES["per row"])
    x = random(4, IN, seed=2)
    copies = Operands(**layer.state_dict(), format=layer.format, compute_dtype=layer.compute_dtype)
    expected = layer(x)
    layer.to("meta")
    assert torch.equal(layer.matmul(copies, x), expected)


def test_names_are_those_of_torch_and_a_scale_is_one_more():
    assert list(make_linear().state_dict()) == list(nn.Linear(IN, OUT).state_dict())
    scaled = make_linear(FP8[0], scale=random(1))
    assert list(scaled.state_dict()) == ["weight", "bias", "weight_scale"]


def test_tensors_can_be_replaced_at_any_time():
    # Formats carry no tensors: whatever the layer holds when it is called is used.
    layer = make_linear(FP8[0], scale=SCALES["per row"])
    x = random(4, IN, seed=2)
    before = layer(x)
    layer.weight_scale = 2 * SCALES["per row"]
    layer.bias = nn.Parameter(2 * BIAS, requires_grad=False)
    assert torch.equal(layer(x), 2 * before)
    layer.to("meta")
    assert all(tensor.is_meta for tensor in layer.state_dict().values())


def test_new_layers_are_frozen_and_plain():
    layer = Linear(IN, OUT)
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    assert not any(parameter.requires_grad for parameter in layer.parameters())
    assert layer.weight_scale is None
    assert layer.compute_dtype == torch.float32
    assert layer.format is PLAIN[torch.float32]
    assert layer.matmul is DEQUANTIZED


def test_printing_shows_sizes_and_formats():
    assert repr(make_linear()) == "Linear(12, 6, fp32 (dequantized))"
    assert repr(make_linear(FP8[0], scale=random(1))) == "Linear(12, 6, fp8 scaled (dequantized))"
