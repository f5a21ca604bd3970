"""What `load_dit` puts into memory, for every key style, weight format and file layout."""

import logging
from pathlib import Path

import pytest
import torch

from tests.parity.recipe import golden, value
from tests.toy.gguf_files import write_dit
from tests.unit.loading.checkpoints import (
    GOLDEN_LAYERS,
    LAYER,
    block_layers,
    dense,
    dit_state,
    note,
    save,
    save_sharded,
    to_fp8,
)
from wan_model import load_dit
from wan_model.config import DiTConfig
from wan_model.dit import WanDiT
from wan_model.errors import BackendError, SettingsError
from wan_model.loading.keymap import PREFIXES
from wan_model.quant import Linear

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def is_mapped(tensor: torch.Tensor, file: Path) -> bool:
    """Whether a tensor's bytes are those of the file, by the kernel's list of mappings."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("No /proc/self/maps on this system.")
    for line in maps.read_text().splitlines():
        span, *_, name = line.split(maxsplit=5)
        start, end = (int(side, 16) for side in span.split("-"))
        if start <= tensor.data_ptr() < end:
            return name == str(file)
    return False


@pytest.mark.parametrize("kind", ["t2v", "i2v", "ti2v"])
def test_a_loaded_model_agrees_with_the_official_code(kind: str, tmp_path: Path):
    state = dit_state(kind, layers=GOLDEN_LAYERS)
    model = load_dit(save(tmp_path / "a.safetensors", state))
    timestep = torch.full((1, 72), 637.0)
    timestep[:, :24] = 0 if kind == "ti2v" else 637
    cond = value("y", (1, 20, 3, 8, 12)) if kind == "i2v" else None
    latent = value("x", (1, model.config.out_channels, 3, 8, 12))
    out = model(latent, timestep, value("ctx", (1, 17, 64)), cond)
    expected = torch.from_numpy(golden()[f"{kind}.out"])
    torch.testing.assert_close(out[0], expected, rtol=0, atol=3e-5)


def test_sizes_are_read_from_the_file(tmp_path: Path):
    model = load_dit(save(tmp_path / "a.safetensors", dit_state("i2v")))
    assert model.config == DiTConfig(
        dim=256,
        ffn_dim=512,
        num_heads=2,
        num_layers=2,
        in_channels=36,
        out_channels=16,
        text_dim=64,
    )
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("prefix", "stored"),
    [
        *((prefix, torch.float16) for prefix in PREFIXES),
        *(("", dtype) for dtype in (*FLOATS, *FP8)),
    ],
    ids=str,
)
def test_every_prefix_and_format_round_trips(prefix: str, stored: torch.dtype, tmp_path: Path):
    state = dit_state()
    state = to_fp8(state, stored) if stored in FP8 else dit_state(dtype=stored)
    file = save(tmp_path / "a.safetensors", {prefix + key: t for key, t in state.items()})
    model = load_dit(file)
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    for key, tensor in state.items():
        if stored in FP8 and key.startswith("blocks.") and key.endswith(".bias"):
            continue  # cast to the compute dtype, see below
        assert loaded[key].dtype == tensor.dtype, key
        assert torch.equal(loaded[key], tensor), key


@pytest.mark.parametrize(
    ("stored", "computed"),
    [*((d, d) for d in FLOATS), *((d, torch.bfloat16) for d in FP8)],
    ids=str,
)
def test_the_default_dtype_is_that_of_the_file(
    stored: torch.dtype, computed: torch.dtype, tmp_path: Path
):
    state = to_fp8(dit_state(), stored) if stored in FP8 else dit_state(dtype=stored)
    model = load_dit(save(tmp_path / "a.safetensors", state))
    assert model.precision.compute_dtype == computed
    assert model.precision.residual_dtype == torch.float32
    assert model.get_submodule(LAYER).weight.dtype == stored


@pytest.mark.parametrize("stored", FLOATS, ids=str)
@pytest.mark.parametrize("asked", FLOATS, ids=str)
def test_only_layers_that_compute_in_another_width_are_cast(
    stored: torch.dtype, asked: torch.dtype, tmp_path: Path
):
    state = dit_state(dtype=stored)
    model = load_dit(save(tmp_path / "a.safetensors", state), dtype=asked)
    layers = set(block_layers(state))
    assert len(layers) == 20
    for key, tensor in model.state_dict().items():
        cast = stored.itemsize != asked.itemsize and key.rpartition(".")[0] in layers
        expected = state[key].to(asked) if cast else state[key]
        assert tensor.dtype == expected.dtype, key
        assert torch.equal(tensor, expected), key


def test_fp8_outside_linear_layers_becomes_fp32(tmp_path: Path):
    state = {key: tensor.to(torch.float8_e4m3fn) for key, tensor in dit_state().items()}
    model = load_dit(save(tmp_path / "a.safetensors", state), dtype=torch.float16)
    assert model.patch_embedding.weight.dtype == torch.float32
    assert model.blocks[0].modulation.dtype == torch.float32
    assert model.time_projection[1].weight.dtype == torch.float8_e4m3fn
    assert torch.equal(dense(model, LAYER), state[f"{LAYER}.weight"].float())
    out = model(value("x", (1, 16, 1, 4, 4)), torch.tensor([500.0]), value("ctx", (1, 3, 64)))
    assert out.isfinite().all()


def test_fp64_becomes_fp32(tmp_path: Path):
    model = load_dit(save(tmp_path / "a.safetensors", dit_state(dtype=torch.float64)))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("given", ["index", "folder", "shard"])
def test_sharded_checkpoints(given: str, tmp_path: Path):
    state = dit_state()
    index = save_sharded(tmp_path / "model", state)
    shard = index.parent / "model-00002-of-00003.safetensors"
    path = {"index": index, "folder": index.parent, "shard": shard}[given]
    loaded = load_dit(path).state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in state.items())


def test_a_folder_with_one_file(tmp_path: Path):
    """Of GGUF where there is none of safetensors."""

    def loaded_format() -> str:
        layer = load_dit(tmp_path).get_submodule("blocks.0.ffn.0")
        assert isinstance(layer, Linear)
        return layer.format.name

    write_dit(tmp_path / "model.gguf", dit_state(), "Q8_0")
    assert loaded_format() == "Q8_0"
    save(tmp_path / "model.safetensors", dit_state())
    assert loaded_format() == "fp32"


def test_the_heads_of_a_folder_come_from_its_config(tmp_path: Path):
    save(tmp_path / "model.safetensors", dit_state())
    (tmp_path / "config.json").write_text('{"num_attention_heads": 4}')
    assert load_dit(tmp_path).config.num_heads == 4
    assert load_dit(tmp_path / "model.safetensors").config.num_heads == 2


def test_an_unrelated_index_beside_a_file_is_ignored(tmp_path: Path):
    (tmp_path / "other.safetensors.index.json").write_text("broken")
    assert load_dit(save(tmp_path / "a.safetensors", dit_state())).config.dim == 256


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_notes_on_attention_kernels_are_no_reason_to_refuse(tmp_path: Path, prefix: str):
    state = dit_state()
    for layer in ("self_attn", "cross_attn"):
        state[f"blocks.0.{layer}.comfy_attention.config"] = note({"backend": "sage"})
    state = {f"{prefix}{key}": tensor for key, tensor in state.items()}
    model = load_dit(save(tmp_path / "a.safetensors", state))
    assert all(torch.equal(t, dit_state()[name]) for name, t in model.state_dict().items())


def test_nothing_stays_on_the_meta_device(tmp_path: Path):
    model = load_dit(save(tmp_path / "a.safetensors", dit_state()))
    tensors = [*model.parameters(), *model.buffers()]
    assert len(tensors) == len(dit_state())
    assert not any(tensor.is_meta for tensor in tensors)


def test_tensors_that_need_no_cast_stay_views_of_the_file(tmp_path: Path):
    file = save(tmp_path / "a.safetensors", dit_state(dtype=torch.float16)).resolve()
    model = load_dit(file)
    assert is_mapped(model.get_submodule(LAYER).weight, file)
    other = load_dit(file, dtype=torch.bfloat16)
    assert is_mapped(other.get_submodule(LAYER).weight, file)
    file = save(tmp_path / "b.safetensors", dit_state()).resolve()
    cast = load_dit(file, dtype=torch.bfloat16)
    assert not is_mapped(cast.get_submodule(LAYER).weight, file)
    assert is_mapped(cast.text_embedding[0].weight, file)


def test_weights_that_are_cast_at_use_compute_as_if_cast_before(tmp_path: Path):
    state = dit_state(dtype=torch.float16)
    layers = set(block_layers(state))
    early = {
        key: tensor.bfloat16() if key.rpartition(".")[0] in layers else tensor
        for key, tensor in state.items()
    }
    inputs = value("x", (1, 16, 1, 4, 4)), torch.tensor([500.0]), value("ctx", (1, 3, 64))
    outputs = [
        load_dit(save(tmp_path / f"{name}.safetensors", tensors), dtype=torch.bfloat16)(*inputs)
        for name, tensors in (("late", state), ("early", early))
    ]
    assert torch.equal(*outputs)


def test_the_file_is_safe_from_changes_to_the_model(tmp_path: Path):
    file = save(tmp_path / "a.safetensors", dit_state())
    before = file.read_bytes()
    load_dit(file).get_submodule(LAYER).weight.data.zero_()
    assert file.read_bytes() == before


def test_residual_dtype_and_classes_reach_the_model(tmp_path: Path):
    class MyLinear(Linear):
        pass

    class MyDiT(WanDiT):
        pass

    model = load_dit(
        save(tmp_path / "a.safetensors", dit_state()),
        residual_dtype=torch.bfloat16,
        attention="sdpa",
        dit_class=MyDiT,
        linear_class=MyLinear,
    )
    assert isinstance(model, MyDiT)
    assert isinstance(model.get_submodule(LAYER), MyLinear)
    assert model.precision.residual_dtype == torch.bfloat16


def test_wrong_settings_are_refused(tmp_path: Path):
    file = save(tmp_path / "a.safetensors", dit_state())
    with pytest.raises(SettingsError, match=r"Got torch\.float8_e4m3fn, need torch\.float32"):
        load_dit(file, dtype=torch.float8_e4m3fn)
    with pytest.raises(BackendError, match="nonsense"):
        load_dit(file, attention="nonsense")


def test_loading_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "wan_model")
    load_dit(save(tmp_path / "a_high_noise.safetensors", dit_state("i2v")))
    assert "I2V (dim 256, 2 layers), high noise, fp32" in caplog.text
