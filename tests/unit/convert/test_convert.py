"""The command line that makes safetensors of other files."""

import logging
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.toy.gguf_files import write_dit
from tests.unit.loading.checkpoints import (
    LAYER,
    LAYERS,
    block_layers,
    dense,
    dit_state,
    save,
    vae_state,
)
from tests.unit.loading.test_newest_files import in_tiles
from wan_model import detect, load_dit
from wan_model.convert.__main__ import main

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Other processes import the library from the repository, as on the command line."""
    monkeypatch.syspath_prepend(str(REPOSITORY))
    caplog.set_level(logging.INFO)


def turbo_diffusion() -> tuple[dict, dict[str, torch.Tensor]]:
    """A transformer as TurboDiffusion publishes it, quantized; and its exact weights."""
    state, exact = dit_state("i2v"), {}
    for layer in block_layers(state):
        parts, exact[layer] = in_tiles(state.pop(f"{layer}.weight"), 128, torch.int8, None)
        state |= {f"{layer}.int8_weight": parts["weight"], f"{layer}.scale": parts["weight_scale"]}
    state["patch_embedding.weight"] = state["patch_embedding.weight"].flatten(1)
    for block in range(LAYERS):
        branch = f"blocks.{block}.self_attn.attn_op.local_attn.proj_l"
        state |= {f"{branch}.weight": torch.zeros(128, 128), f"{branch}.bias": torch.zeros(128)}
    return {"state_dict": state, "step": 3}, exact


def test_a_pickled_turbo_diffusion_file(tmp_path: Path) -> None:
    saved, exact = turbo_diffusion()
    file = tmp_path / "TurboWan2.2-I2V-A14B-high-720P-quant.pth"
    torch.save(saved, file)
    assert main([str(file)]) == 0
    (written,) = tmp_path.glob("*.safetensors")
    assert written.name == "TurboWan2.2-I2V-A14B-high-720P-quant.safetensors"
    info = detect(written)
    assert (info.kind, info.expert, info.format) == ("i2v", "high", "int8 scaled")
    assert len(info.remarks) == 1
    model = load_dit(written)
    for layer, weight in exact.items():
        assert (dense(model, layer) - weight).norm() < 1e-6 * weight.norm()
    expected = dit_state("i2v")["patch_embedding.weight"]
    assert torch.equal(model.state_dict()["patch_embedding.weight"].view_as(expected), expected)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".pth", ".safetensors"]


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def test_nothing_in_a_pickled_file_is_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "a.pth"
    file.write_bytes(pickle.dumps({"a.weight": Bomb(tmp_path / "was here")}, protocol=2))
    assert main([str(file)]) == 1
    assert "a.pth cannot be read. Got" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "a file that is empty or cut off"), (b"\x80\x02.", "IndexError: ")]
)
def test_a_damaged_pickled_file(
    content: bytes, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What its reader raises may have no words."""
    file = tmp_path / "a.pth"
    file.write_bytes(content)
    assert main([str(file)]) == 1
    assert f"a.pth cannot be read. Got {said}" in caplog.text


def test_other_files_change_their_format(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = save(tmp_path / "a_low_noise.safetensors", dit_state())
    assert main([str(file), "--format", "int8 convrot"]) == 0
    written = tmp_path / "a_low_noise_int8_convrot.safetensors"
    assert (detect(written).format, detect(written).expert) == ("int8 convrot", "low")
    assert (dense(load_dit(written), LAYER) - dense(load_dit(file), LAYER)).norm() < 1
    assert main([str(file), "--format", "int8 convrot"]) == 1
    assert "exists already" in caplog.text
    assert main([str(tmp_path / "none.safetensors")]) == 1
    assert "no checkpoint at this path" in caplog.text


@pytest.mark.parametrize("name", ["as it is", "int8"])
def test_gguf_becomes_safetensors(name: str, tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    write_dit(file, dit_state(), "Q8_0")
    assert main([str(file), "--format", name]) == 0
    written = next(tmp_path.glob("*.safetensors"))
    exact = dense(load_dit(file), LAYER)
    assert (dense(load_dit(written), LAYER) - exact).norm() < 0.02 * exact.norm()


def test_a_part_of_an_all_in_one_file(tmp_path: Path) -> None:
    state = {f"model.diffusion_model.{key}": tensor for key, tensor in dit_state().items()}
    state |= {f"vae.{key}": tensor for key, tensor in vae_state("2.1").items()}
    file = save(tmp_path / "aio.safetensors", state)
    assert main([str(file), "--part", "vae", "--output", str(tmp_path / "vae.safetensors")]) == 0
    got = load_file(tmp_path / "vae.safetensors")
    assert got.keys() == vae_state("2.1").keys()
    assert all(torch.equal(got[key], tensor) for key, tensor in vae_state("2.1").items())
