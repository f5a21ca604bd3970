"""What `load_vae` puts into memory."""

from pathlib import Path

import pytest
import torch

from tests.unit.loading.checkpoints import save, vae_state
from wan_model import load_vae
from wan_model.errors import CheckpointError

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("variant", ["2.1", "2.2"])
@pytest.mark.parametrize("stored", FLOATS, ids=str)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_weights_round_trip(variant: str, stored: torch.dtype, prefix: str, tmp_path: Path):
    state = vae_state(variant, stored)
    file = save(tmp_path / "a.safetensors", {prefix + key: t for key, t in state.items()})
    vae = load_vae(file)
    assert vae.config.variant == f"wan{variant}"
    assert vae.dtype == stored
    assert not vae.training
    for key, tensor in vae.state_dict().items():
        assert tensor.dtype == stored
        assert torch.equal(tensor, state[key]), key
    assert not any(tensor.is_meta for tensor in (*vae.parameters(), *vae.buffers()))


@pytest.mark.parametrize("asked", FLOATS, ids=str)
def test_weights_are_cast_when_asked(asked: torch.dtype, tmp_path: Path):
    state = vae_state("2.1")
    vae = load_vae(save(tmp_path / "a.safetensors", state), dtype=asked)
    assert all(torch.equal(t, state[key].to(asked)) for key, t in vae.state_dict().items())


def test_quantised_weights_are_unpacked(tmp_path: Path):
    state = vae_state("2.1")
    key = "decoder.conv1.weight"
    small = {name: t.to(torch.float8_e4m3fn) if t.ndim > 1 else t for name, t in state.items()}
    vae = load_vae(save(tmp_path / "a.safetensors", small))
    assert vae.dtype == torch.bfloat16
    assert torch.equal(vae.state_dict()[key], small[key].to(torch.bfloat16))
    rows = torch.linspace(0.5, 2, small[key].shape[0])
    scales = {name.replace(".weight", ".scale_weight"): torch.ones(1) for name in state}
    scales = {name: scale for name, scale in scales.items() if name.endswith("scale_weight")}
    scaled = small | scales | {"decoder.conv1.scale_weight": rows}
    vae = load_vae(save(tmp_path / "b.safetensors", scaled), dtype=torch.float32)
    expected = small[key].float() * rows.view(-1, 1, 1, 1, 1)
    assert torch.equal(vae.state_dict()[key], expected)


def test_a_vae_of_the_right_kind_works(tmp_path: Path):
    vae = load_vae(save(tmp_path / "a.safetensors", vae_state("2.2")))
    latent = vae.encode(torch.zeros(1, 3, 5, 32, 32))
    assert latent.shape == (1, 48, 2, 2, 2)
    assert vae.decode(latent).shape == (1, 3, 5, 32, 32)


def test_an_incomplete_vae_is_refused(tmp_path: Path):
    state = vae_state("2.1")
    del state["decoder.head.2.bias"]
    with pytest.raises(
        CheckpointError, match=r"Wan2\.1 VAE, fp32.*1 missing \(decoder\.head\.2\.b"
    ):
        load_vae(save(tmp_path / "a.safetensors", state))
