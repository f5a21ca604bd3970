"""What several files share: a server with an emulated card, and the pack without ComfyUI."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .bare_pack import BarePack
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


@pytest.fixture
def pack(monkeypatch: pytest.MonkeyPatch) -> str:
    """Name under which single modules of the pack can be imported without ComfyUI."""
    return BarePack(monkeypatch).name
