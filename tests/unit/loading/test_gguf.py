"""GGUF files of every tool and type: the same model as a safetensors file of the same numbers."""

from pathlib import Path

import gguf
import pytest
import torch

from tests.toy.gguf_files import Layout, State, write_dit
from tests.unit.loading.checkpoints import LAYER, dense, dit_state, save
from tests.unit.quant.gguf_blocks import random_blocks
from wan_model import detect, load_dit
from wan_model.errors import CheckpointError
from wan_model.loading import open_checkpoint, unchanged_regions
from wan_model.offload import HostModel
from wan_model.quant import GGUF_FORMATS
from wan_model.writing import converted_file

KINDS = {kind.name: kind for kind in GGUF_FORMATS}
MIX = {"v.weight": "Q6_K", "ffn.2.weight": "Q6_K", "k.weight": "IQ4_XS", "o.weight": "Q8_0"}


def matrices(state: State) -> dict[str, str]:
    """The types of a Q4_K_M file, and two more, by name."""
    large = [n for n, t in state.items() if n.startswith("blocks.") and t.ndim == 2]
    return {n: next((k for end, k in MIX.items() if n.endswith(end)), "Q4_K") for n in large}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, State]:
    """A file of several types, and its numbers."""
    file = tmp_path_factory.mktemp("gguf") / "wan-HighNoise-Q4_K_M.gguf"
    state = dit_state()
    kinds = matrices(state)
    packed = {
        name: random_blocks(KINDS[kind], *state[name].shape, scale=1e-4).numpy()
        for name, kind in kinds.items()
    }
    return file, write_dit(file, state, kinds, packed=packed)


def numbers(model: torch.nn.Module) -> State:
    """What every parameter of a model stands for, fp32."""
    result = {}
    for name, tensor in model.state_dict().items():
        layer, _, leaf = name.rpartition(".")
        linear = leaf == "weight" and hasattr(model.get_submodule(layer), "stored")
        result[name] = dense(model, layer) if linear else tensor.float()
    return result


def assert_same(got: State, expected: State) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(got[name], tensor), name


def test_a_mix_of_types_is_exact(mixed: tuple[Path, State]):
    file, expected = mixed
    info = detect(file)
    assert info.label == ("T2V (dim 256, 2 layers), high noise, mixed (Q4_K, Q6_K, IQ4_XS, Q8_0)")
    model = load_dit(file, dtype=torch.float32)
    assert_same(numbers(model), expected)
    q = model.get_submodule("blocks.0.self_attn.q")
    assert q.weight.shape == (256, 144)


@pytest.mark.parametrize(
    ("layout", "kind"),
    [
        ("city96", "Q8_0"),
        ("city96", "F16"),
        ("sd.cpp", "Q4_0"),
        ("sd.cpp", "F32"),
        ("calcuis", "Q5_1"),
        ("calcuis", "BF16"),
    ],
)
def test_layouts(layout: Layout, kind: str, tmp_path: Path):
    file = tmp_path / "a.gguf"
    expected = write_dit(file, dit_state("i2v"), kind, layout)
    assert detect(file).kind == "i2v"
    assert_same(numbers(load_dit(file, dtype=torch.float32)), expected)


def test_ti2v_and_computation(tmp_path: Path):
    """The result is that of a safetensors file; quantized files compute in bf16 unless asked."""
    expected = write_dit(tmp_path / "a.gguf", dit_state("ti2v"), "Q5_0")
    save(tmp_path / "a.safetensors", expected)
    assert load_dit(tmp_path / "a.gguf").precision.compute_dtype == torch.bfloat16
    files = tmp_path / "a.gguf", tmp_path / "a.safetensors"
    ours, theirs = (load_dit(file, dtype=torch.float32) for file in files)
    torch.manual_seed(0)
    inputs = torch.randn(1, 48, 1, 4, 4), torch.tensor([500.0]), torch.randn(1, 4, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(*inputs), theirs(*inputs), atol=1e-5, rtol=1e-5)


def test_packed_bytes_are_streamed(mixed: tuple[Path, State]):
    """Every block's weights are read from the file as they lie there, and stay that small."""
    file, _ = mixed
    checkpoint = open_checkpoint(file)
    model = load_dit(checkpoint)
    regions = unchanged_regions(model, checkpoint)
    assert regions[f"{LAYER}.weight"].nbytes == 512 * 144
    host = HostModel(model, model.blocks, regions)
    block = [e for e in checkpoint.entries.values() if e.name.startswith("blocks.0.")]
    in_file = sum(part.raw.nbytes for entry in block for part in entry.parts.values())
    assert host.slab_bytes < 1.1 * in_file


def test_conversion_to_another_format(mixed: tuple[Path, State], tmp_path: Path):
    file, expected = mixed
    converted = converted_file(file, "fp8", tmp_path)
    assert converted.info.format == "fp8 scaled"
    got = numbers(load_dit(converted, dtype=torch.float32))
    direct = numbers(load_dit(file, dtype=torch.float32, weights="fp8 storage"))
    assert_same(got, direct)
    error = (got[f"{LAYER}.weight"] - expected[f"{LAYER}.weight"]).norm()
    assert error < 0.04 * expected[f"{LAYER}.weight"].norm()


def test_everything_quantized_is_converted_too(tmp_path: Path):
    """stable-diffusion.cpp quantizes embeddings, which conversions leave exact."""
    expected = write_dit(tmp_path / "a.gguf", dit_state(), "Q8_0", "sd.cpp")
    got = numbers(load_dit(converted_file(tmp_path / "a.gguf", "fp8", tmp_path)))
    for name in ("time_embedding.2.weight", "blocks.0.modulation", "patch_embedding.weight"):
        assert torch.equal(got[name], expected[name])


def test_without_its_patch_embedding(tmp_path: Path):
    state = dit_state()
    del state["patch_embedding.weight"]
    write_dit(tmp_path / "a.gguf", state, "Q8_0")
    with pytest.raises(CheckpointError, match=r"a.gguf was converted only half.*fix_5d_tensors"):
        load_dit(tmp_path / "a.gguf")


def test_types_that_cannot_be_read(tmp_path: Path):
    state = dit_state()
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType.IQ2_XXS][1]
    name = "blocks.0.ffn.0.weight"
    packed = {name: torch.zeros(512, size, dtype=torch.uint8).numpy()}
    write_dit(tmp_path / "a.gguf", state, {name: "IQ2_XXS"}, packed=packed)
    with pytest.raises(CheckpointError, match=r"not supported yet\. Got IQ2_XXS tensors in"):
        load_dit(tmp_path / "a.gguf")


def test_the_content_tells_not_the_name(tmp_path: Path):
    expected = write_dit(tmp_path / "a.safetensors", dit_state(), "Q8_0")
    assert_same(numbers(load_dit(tmp_path / "a.safetensors", dtype=torch.float32)), expected)
    save(tmp_path / "b.gguf", dit_state())
    with pytest.raises(CheckpointError, match=r"b\.gguf is damaged\. It is not a GGUF file"):
        load_dit(tmp_path / "b.gguf")
