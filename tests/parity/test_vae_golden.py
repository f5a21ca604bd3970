"""The VAEs against the official code: names and shapes of the weights, and golden tensors."""

import json

import pytest
import torch

from tests.parity.recipe import GOLDEN, fill, golden, value
from wan_model.config import VaeConfig
from wan_model.vae import WanVae, build_vae

TOLERANCE = {"atol": 3e-5, "rtol": 0}
"""oneDNN adds in another order than the convolution that made the golden tensors."""
OFFICIAL = {
    "2.1": VaeConfig(variant="wan2.1", encoder_dim=96, decoder_dim=96, z_dim=16),
    "2.2": VaeConfig(variant="wan2.2", encoder_dim=160, decoder_dim=256, z_dim=48),
}
SMALL = {
    "vae21": (VaeConfig(variant="wan2.1", encoder_dim=16, decoder_dim=16, z_dim=16), (32, 48)),
    "vae22": (VaeConfig(variant="wan2.2", encoder_dim=16, decoder_dim=24, z_dim=48), (64, 96)),
}


@pytest.fixture(scope="module", params=SMALL)
def case(request: pytest.FixtureRequest) -> tuple[str, WanVae, tuple[int, int]]:
    """Name in the golden file, filled VAE, and image size (H, W)."""
    config, size = SMALL[request.param]
    return request.param, fill(build_vae(config)), size


@pytest.mark.parametrize("version", OFFICIAL)
def test_state_dict_has_the_official_names_and_shapes(version: str) -> None:
    with torch.device("meta"):
        vae = build_vae(OFFICIAL[version])
    expected = json.loads((GOLDEN / "vae_keys.json").read_text())[version]
    assert {key: list(tensor.shape) for key, tensor in vae.state_dict().items()} == expected


@pytest.mark.parametrize("frames", [1, 9])
def test_encode_agrees_with_the_official_code(
    case: tuple[str, WanVae, tuple[int, int]], frames: int
) -> None:
    name, vae, size = case
    video = value("vae.x", (1, 3, frames, *size), 0.5).clamp(-1, 1)
    expected = torch.from_numpy(golden()[f"{name}.T{frames}.z"])
    torch.testing.assert_close(vae.encode(video), expected, **TOLERANCE)


@pytest.mark.parametrize("frames", [1, 9])
def test_decode_agrees_with_the_official_code(
    case: tuple[str, WanVae, tuple[int, int]], frames: int
) -> None:
    name, vae, _ = case
    latent = torch.from_numpy(golden()[f"{name}.T{frames}.z"])
    expected = torch.from_numpy(golden()[f"{name}.T{frames}.y"])
    torch.testing.assert_close(vae.decode(latent), expected, **TOLERANCE)
