"""Small VAEs of both kinds with weights that are the same everywhere."""

import pytest

from tests.parity.recipe import fill
from wan_model.config import VaeConfig
from wan_model.vae import WanVae, build_vae

SMALL = (
    VaeConfig(variant="wan2.1", encoder_dim=8, decoder_dim=8, z_dim=16),
    VaeConfig(variant="wan2.2", encoder_dim=8, decoder_dim=8, z_dim=48),
)


@pytest.fixture(scope="session", params=SMALL, ids=lambda config: config.variant)
def vae(request: pytest.FixtureRequest) -> WanVae:
    """A filled VAE. Shared by many tests, which leave its weights alone."""
    return fill(build_vae(request.param))
