"""Files of GGUF that are written here, read by ggml's own package, and back."""

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize

from tests.toy.gguf_files import write_dit
from tests.unit.loading.checkpoints import LAYER, block_layers, dense, dit_state, save
from tests.unit.loading.test_export import export
from wan_model import detect, load_dit
from wan_model.errors import CheckpointError, SettingsError
from wan_model.quant import GGUF_FORMATS, PLAIN
from wan_model.writing.export import export_checkpoint, find_export

KINDS = {kind.name: kind for kind in GGUF_FORMATS}
PATCH = "patch_embedding.weight"
SHAPE = "comfy.gguf.orig_shape." + PATCH


def fields(reader: gguf.GGUFReader) -> dict[str, Any]:
    return {name: field.contents() for name, field in reader.fields.items()}


@pytest.mark.parametrize(("kind", "file_type"), [("Q8_0", 7), ("Q4_0", 2)])
def test_ggml_s_reader_finds_what_its_quantizer_makes(kind: str, file_type: int, tmp_path: Path):
    """As ComfyUI-GGUF reads it: names, sides, types, and the noted shape of five sides."""
    state = dit_state(dtype=torch.float32)
    source = save(tmp_path / "a.safetensors", state)
    seen = export(source, tmp_path / "b.gguf", f"GGUF {kind}")
    reader = gguf.GGUFReader(tmp_path / "b.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert tensors.keys() == state.keys()
    assert len(seen) == len(state)
    assert all(tensor.data_offset % 32 == 0 for tensor in tensors.values())
    values = fields(reader)
    assert values["general.architecture"] == "wan"
    assert values["general.file_type"] == file_type
    assert values["general.quantization_version"] == gguf.GGML_QUANT_VERSION
    assert values[SHAPE] == list(state[PATCH].shape)
    assert reader.fields[SHAPE].types == [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.INT32]
    blocks = {f"{layer}.weight" for layer in block_layers(state)}
    for name, tensor in tensors.items():
        assert len(tensor.shape) <= 4
        if name in blocks:
            expected = quantize(state[name].numpy(), gguf.GGMLQuantizationType[kind])
            assert np.array_equal(tensor.data, expected), name
        else:
            assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
            assert np.array_equal(tensor.data.ravel(), state[name].numpy().ravel()), name
    model = load_dit(tmp_path / "b.gguf")
    packed = torch.from_numpy(dequantize(tensors[f"{LAYER}.weight"].data, tensor_type(kind)))
    assert torch.equal(dense(model, LAYER), packed)
    assert torch.equal(model.patch_embedding.weight, state[PATCH])
    assert detect(tmp_path / "b.gguf").format == kind


def tensor_type(kind: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[kind]


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_every_number_is_rounded_as_by_ggml(kind: str):
    """Zeros, ties, and sizes of all orders."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(64, 1024, generator=generator) * torch.logspace(-6, 3, 64)[:, None]
    x[0], x[1, :512], x[2] = 0, 0, torch.arange(1024) / 2 - 256
    got = KINDS[kind].quantize(x).weight
    assert torch.equal(got, torch.from_numpy(quantize(x.numpy(), tensor_type(kind))))


def test_blocks_that_fit_are_kept_and_16_bits_stay(tmp_path: Path):
    state = dit_state(dtype=torch.bfloat16)
    write_dit(tmp_path / "a.gguf", state, "Q4_0")
    export(tmp_path / "a.gguf", tmp_path / "b.gguf", "GGUF Q4_0")
    one, other = (load_dit(tmp_path / f"{name}.gguf") for name in "ab")
    for (name, tensor), again in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(tensor, again), name
    export(save(tmp_path / "c.safetensors", state), tmp_path / "c.gguf", "GGUF Q8_0")
    assert load_dit(tmp_path / "c.gguf").head.head.weight.dtype == torch.bfloat16


def test_rows_of_no_whole_blocks_are_refused(tmp_path: Path):
    narrow = [(f"{LAYER}.weight", PLAIN[torch.float32].quantize(torch.zeros(4, 40)))]
    with pytest.raises(SettingsError, match=r"as GGUF Q8_0\. .*rows of 40, need a multiple of 32"):
        export_checkpoint(
            tmp_path / "b.gguf", narrow, narrow, find_export("GGUF Q8_0"), lambda *_: None
        )


@pytest.mark.parametrize("wrong", [0, -1, 3, 1 << 30])
def test_a_noted_shape_is_checked(wrong: int, tmp_path: Path):
    export(save(tmp_path / "a.safetensors", dit_state()), tmp_path / "b.gguf", "GGUF Q8_0")
    file = tmp_path / "b.gguf"
    data = bytearray(file.read_bytes())
    at = data.index(SHAPE.encode()) + len(SHAPE) + 4 + 4 + 8
    data[at : at + 4] = struct.pack("<i", wrong)
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="The shape that is noted for patch_embedding"):
        load_dit(file)
