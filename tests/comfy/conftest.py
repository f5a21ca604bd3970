"""A server with an emulated card, which several files share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .server import ComfyServer, prepare

HELPERS = (
    "emulated_card.py",
    "helper_nodes.py",
    "instrument_nodes.py",
    "memory_nodes.py",
    "precision_nodes.py",
)


@pytest.fixture(scope="session")
def card(
    comfyui: Path, toy_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyServer]:
    """A server with a card that has no memory until WanDuetTestSetCard gives it some."""
    base = tmp_path_factory.mktemp("card")
    prepare(base, toy_models, HELPERS)
    with ComfyServer(comfyui, base, arguments=("--cpu",)) as server:
        yield server
