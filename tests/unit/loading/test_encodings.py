"""A format that nobody knows yet becomes readable with one row of a table."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.unit.loading.checkpoints import LAYER, block_layers, dense, dit_state, note, save, scaled
from tests.unit.loading.test_weights import velocity
from wan_model import detect, load_dit
from wan_model.errors import CheckpointError
from wan_model.loading import encodings, open_checkpoint, unchanged_regions
from wan_model.loading.encodings import FLOATS, Encoding
from wan_model.quant import Linear, StoredWeight, WeightFormat
from wan_model.writing import converted_file


def dequantize(stored: Linear | StoredWeight, dtype: torch.dtype) -> Tensor:
    """Two codes from -8 to 7 in a byte, with a scale per row."""
    codes = torch.stack((stored.weight >> 4, stored.weight & 15), dim=-1).flatten(1)
    assert stored.weight_scale is not None
    return ((codes.float() - 8) * stored.weight_scale).to(dtype)


def quantize(weight: Tensor) -> StoredWeight:
    scale = weight.float().abs().amax(1, keepdim=True) / 7
    codes = ((weight / scale).round() + 8).to(torch.uint8).unflatten(1, (-1, 2))
    return StoredWeight(TOY, codes[..., 0] << 4 | codes[..., 1], scale)


TOY = WeightFormat(
    name="toy4",
    dtype=torch.uint8,
    codes_per_item=2,
    dequantize=dequantize,  # pyright: ignore[reportArgumentType]
    quantize=quantize,
    requantize=lambda weight, *_: weight,
)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A transformer in the toy format, and the row that makes it readable."""
    row = Encoding(format=TOY, weight="U8", scales={"weight_scale": FLOATS}, names=("toy_w4a16",))
    monkeypatch.setattr(encodings, "ENCODINGS", (*encodings.ENCODINGS, row))
    state = dit_state()
    for layer in block_layers(state):
        stored = quantize(state[f"{layer}.weight"])
        state |= {f"{layer}.{leaf}": tensor for leaf, tensor in stored.tensors()}
        state[f"{layer}.comfy_quant"] = note({"format": "toy_w4a16"})
    return save(tmp_path / "a.safetensors", state)


def test_it_loads_streams_and_converts(file: Path, tmp_path: Path):
    assert detect(file).format == "toy4"
    assert detect(file).parameters == sum(tensor.numel() for tensor in dit_state().values())
    checkpoint = open_checkpoint(file)
    model = load_dit(checkpoint)
    expected = quantize(dit_state()[f"{LAYER}.weight"]).dequantize(torch.float32)
    assert torch.equal(dense(model, LAYER), expected)
    regions = unchanged_regions(model, checkpoint)
    assert {f"{LAYER}.weight", f"{LAYER}.weight_scale"} <= regions.keys()
    converted = load_dit(converted_file(file, "bf16", tmp_path / "cache"))
    assert torch.equal(dense(converted, LAYER), expected.bfloat16().float())
    assert velocity(model).isfinite().all()


def test_without_the_row_it_is_refused_by_name(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encodings, "ENCODINGS", encodings.ENCODINGS[:-1])
    with pytest.raises(CheckpointError, match="Got toy_w4a16 in "):
        detect(file)


def test_notes_of_any_json_are_refused(tmp_path: Path):
    for value in ([1], {"a": 1}, None, 3):
        metadata = {"_quantization_metadata": json.dumps({"layers": {LAYER: value}})}
        file = save(tmp_path / "a.safetensors", scaled(dit_state()), metadata)
        with pytest.raises(CheckpointError, match="not supported yet"):
            detect(file)
