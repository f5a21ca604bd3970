"""What `load_vae` puts into memory."""

from pathlib import Path

import pytest
import torch

from tests.parity.recipe import weight
from tests.unit.loading.checkpoints import State, save, vae_state
from wan_model import detect, load_dit, load_vae
from wan_model.errors import CheckpointError
from wan_model.vae.preview import PreviewVae, PreviewVaeConfig, build_preview_vae

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize(
    ("variant", "stored", "prefix"),
    [*(("2.1", dtype, "") for dtype in FLOATS), ("2.2", torch.float32, "model.")],
    ids=str,
)
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


def test_quantized_weights_are_unpacked(tmp_path: Path):
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


def test_a_vae_that_upscales_is_named(tmp_path: Path):
    state = vae_state("2.1") | {"decoder.head.2.weight": torch.zeros(12, 8, 3, 3, 3)}
    with pytest.raises(CheckpointError, match=r"decodes to twice the size \(upscale2x, 12 output"):
        detect(save(tmp_path / "a.safetensors", state))


def test_an_incomplete_vae_is_refused(tmp_path: Path):
    state = vae_state("2.1")
    del state["decoder.head.2.bias"]
    with pytest.raises(
        CheckpointError, match=r"Wan 2\.1 VAE, fp32.*1 missing \(decoder\.head\.2\.b"
    ):
        load_vae(save(tmp_path / "a.safetensors", state))


def preview_state(z_dim: int = 16, dtype: torch.dtype = torch.float16, encoder: int = 8) -> State:
    """A preview VAE with toy widths and the official keys."""
    config = PreviewVaeConfig(
        variant="wan2.2" if z_dim == 48 else "wan2.1",
        encoder_dim=encoder,
        decoder_dim=4,
        z_dim=z_dim if z_dim == 48 else 16,
        stage_dims=(32, 16, 8),
        family="TAEHV",
    )
    with torch.device("meta"):
        shapes = {k: t.shape for k, t in build_preview_vae(config).state_dict().items()}
    state = {key: weight(key, shape).to(dtype) for key, shape in shapes.items()}
    state["decoder.1.weight"] = weight("decoder.1.weight", (32, z_dim, 3, 3)).to(dtype)
    return state


PREVIEWS = {
    "taew2_1": (16, torch.float16, "TAEHV preview VAE for Wan 2.1 (16 channels), fp16"),
    "lighttaew2_1": (16, torch.float32, "LightTAE preview VAE for Wan 2.1 (16 channels), fp32"),
    "taew2_2": (48, torch.float16, "TAEHV preview VAE for Wan 2.2 (48 channels), fp16"),
    "lighttaew2_2": (48, torch.bfloat16, "LightTAE preview VAE for Wan 2.2 (48 channels), bf16"),
    # The name goes before the dtype, which decides where the name says nothing.
    "Wan_TAEW2_1_fp32": (16, torch.float32, "TAEHV preview VAE for Wan 2.1 (16 channels), fp32"),
    "LightTAE": (48, torch.float16, "LightTAE preview VAE for Wan 2.2 (48 channels), fp16"),
    "preview": (16, torch.float16, "TAEHV preview VAE for Wan 2.1 (16 channels), fp16"),
    "preview_large": (16, torch.float32, "LightTAE preview VAE for Wan 2.1 (16 channels), fp32"),
}


@pytest.mark.parametrize(
    ("name", "prefix"), [*((name, "") for name in PREVIEWS), ("taew2_1", "model.")]
)
def test_preview_vaes(name: str, prefix: str, tmp_path: Path):
    z_dim, dtype, label = PREVIEWS[name]
    state = preview_state(z_dim, dtype)
    file = save(tmp_path / f"{name}.safetensors", {prefix + key: t for key, t in state.items()})
    info = detect(file)
    assert (info.label, info.kind) == (label, None)
    assert info.parameters == sum(tensor.numel() for tensor in state.values())
    vae = load_vae(file)
    assert isinstance(vae, PreviewVae)
    assert vae.config == info.config
    assert (vae.config.encoder_dim, vae.config.decoder_dim) == (8, 4)
    assert vae.config.stage_dims == (32, 16, 8)
    assert (vae.dtype, vae.training) == (dtype, False)
    assert all(torch.equal(tensor, state[key]) for key, tensor in vae.state_dict().items())
    assert load_vae(file, dtype=torch.float32).decode(torch.zeros(1, z_dim, 2, 1, 1)).shape[2] == 5


def test_a_preview_vae_with_a_decoder_only(tmp_path: Path):
    file = save(tmp_path / "taew2_1.safetensors", preview_state(encoder=0))
    assert detect(file).label == "TAEHV preview VAE for Wan 2.1 (16 channels), decoder only, fp16"
    assert load_vae(file).decode(torch.zeros(1, 16, 1, 2, 3).half()).shape == (1, 3, 1, 16, 24)


def large_decoder(state: State) -> State:
    """The first and last keys of a 'super' decoder."""
    encoder = {key: tensor for key, tensor in state.items() if key.startswith("encoder.")}
    names = ("0.weight", "1.conv.0.weight", "7.conv.weight", "14.conv.weight", "22.bias")
    return encoder | {f"decoder.{name}": torch.zeros(2) for name in names}


REFUSED_PREVIEWS = {
    "another model by its channels": (
        "taehv1_5",
        preview_state(32),
        r"taehv1_5.* for a different model.*Got 32 latent channels, need 16 .*lighttaew2_2",
    ),
    "another model by its name": (
        "taehv",
        preview_state(),
        r"judging by its name\. Got one of HunyuanVideo, need one of Wan.*rename",
    ),
    "a large decoder": (
        "taew2_2_super",
        large_decoder(preview_state(48)),
        r"Got a TAEHV preview VAE with a large decoder .*taew2_2\.",
    ),
    "a decoder of images": (
        "taesd",
        {"taesd_decoder.1.weight": torch.zeros(2)},
        r"Got a preview VAE for images",
    ),
    "a decoder of images, keys of diffusers": (
        "taef1",
        {"decoder.layers.3.conv.0.weight": torch.zeros(2)},
        r"Got a preview VAE for images",
    ),
    "a wider layer": (
        "taew2_1",
        preview_state() | {"decoder.7.conv.weight": torch.zeros(64, 32, 1, 1)},
        r"TAEHV preview VAE for Wan 2\.1.*1 of another shape \(decoder\.7\.conv\.weight: \[64,",
    ),
    "pixels of another patch": (
        "taew2_2",
        preview_state() | {"decoder.1.weight": torch.zeros(32, 48, 3, 3)},
        r"of another shape .*decoder\.22\.weight: \[3, 4, 3, 3\] instead of \[12, ",
    ),
}


@pytest.mark.parametrize("case", REFUSED_PREVIEWS)
def test_other_preview_vaes_are_refused(case: str, tmp_path: Path):
    name, state, message = REFUSED_PREVIEWS[case]
    with pytest.raises(CheckpointError, match=message):
        load_vae(save(tmp_path / f"{name}.safetensors", state))


@pytest.mark.parametrize("key", ["decoder.8.weight", "decoder.3.conv.0.weight", "encoder.17.bias"])
def test_an_incomplete_preview_vae_is_refused(key: str, tmp_path: Path):
    state = preview_state()
    del state[key]
    with pytest.raises(CheckpointError, match=rf"Got .*{key}"):
        load_vae(save(tmp_path / "taew2_1.safetensors", state))


def test_a_truncated_preview_vae_is_refused(tmp_path: Path):
    file = save(tmp_path / "taew2_1.safetensors", preview_state())
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"taew2_1\.safetensors is damaged\. Its data is cut"):
        detect(file)


def test_a_preview_vae_is_no_diffusion_model(tmp_path: Path):
    file = save(tmp_path / "taew2_1.safetensors", preview_state())
    with pytest.raises(CheckpointError, match=r"Got a preview VAE \(TAEHV.*need a diffusion model"):
        load_dit(file)


def test_a_file_that_is_written_to_in_its_place_changes_nothing(tmp_path: Path):
    """Cut off, it would end the process."""
    file = save(tmp_path / "a.safetensors", vae_state("2.1"))
    vae = load_vae(file)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    with file.open("r+b") as stream:
        stream.seek(-(1 << 18), 2)
        stream.write(bytes(1 << 18))
    for name, value in vae.state_dict().items():
        assert torch.equal(value, before[name]), name
