"""A real ComfyUI on the CPU with toy models and the tests' helper nodes, in a folder of its own."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.comfy.server import ComfyServer, prepare
from tests.toy.make_checkpoints import make_checkpoints

HELPERS = ("fault_nodes.py", "helper_nodes.py", "instrument_nodes.py", "memory_nodes.py")


@contextmanager
def toy_folder() -> Iterator[Path]:
    """Makes a folder for servers."""
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        make_checkpoints(base / "made")
        prepare(base, base / "made", HELPERS)
        yield base


@contextmanager
def toy_server(environment: Mapping[str, str] | None = None) -> Iterator[ComfyServer]:
    """Runs a server, with further environment variables."""
    comfyui = Path(os.environ["COMFYUI_PATH"]).resolve()
    with toy_folder() as base, ComfyServer(comfyui, base, environment=environment) as server:
        yield server
