"""A workflow, which may be a stranger's, connects with no cluster that nobody has allowed."""

import importlib

import pytest

from .graphs import save
from .server import ComfyServer
from .test_distribute import SHARED, distribute, guided, inputs

HERE = ["", "auto", "local", "localhost:1", "127.9.9.9:6379", "[::1]:6379"]
ELSEWHERE = [
    "10.0.0.1:6379",
    "ray://127.0.0.1:1",
    "127.0.0.1@a:1",
    "localhost.a:1",
    "[",
    # Whose host is another one to Ray than to who reads it as part of a URL.
    "203.0.113.1:6379@localhost",
    "127.0.0.1:203.0.113.1:6379",
    "localhost://203.0.113.1:1",
    "127.0.0.1.a:1",
    "127.0.0.1",
    "::1:6379",
    # This computer's, perhaps, but nobody can tell.
    "192.168.1.5:6379",
    "a" * 9999,
]


@pytest.mark.parametrize("address", [*HERE, *ELSEWHERE])
def test_which_clusters(pack: str, address: str):
    clusters = importlib.import_module(f"{pack}.nodes._comfy.cluster.allowed_clusters")
    errors = importlib.import_module(f"{pack}.wan_model.errors")
    clusters.check_allowed(address, {clusters.CLUSTERS: f"b:1, {address}"})
    for others in ({}, {clusters.CLUSTERS: "10.0.0.1,b:1,0.1:6379"}):
        if address in HERE:
            clusters.check_allowed(address, others)
            continue
        with pytest.raises(errors.SettingsError, match=clusters.CLUSTERS) as error:
            clusters.check_allowed(address, others)
        assert len(str(error.value)) < 500


@pytest.mark.comfy
def test_before_anything_else_of_ray(comfy_server: ComfyServer):
    nodes = {**inputs(), **distribute(address="203.0.113.1:6379"), **guided("sampler", SHARED)}
    error = comfy_server.run({**nodes, **save("no", latent=("sampler", 0))}).error
    assert error is not None
    assert error["exception_message"].startswith("This Ray cluster is not allowed. Got '203.")
