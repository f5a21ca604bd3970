"""Where compiled kernels are kept. The file is read without ComfyUI, whose folder is a fake."""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .server import REPOSITORY

TRITON, INDUCTOR = "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"
NAME = "pack.nodes._comfy.host"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], Any]:
    """Loads the file anew, as at a start of ComfyUI."""
    for name in (TRITON, INDUCTOR):
        monkeypatch.delenv(name, raising=False)
    package: Any = ModuleType(NAME)
    package.__path__ = [str(REPOSITORY / "nodes" / "_comfy" / "host")]
    runtime: Any = ModuleType(f"{NAME}.runtime")
    runtime.cache_folder = lambda: tmp_path / "wanduet"

    def loaded() -> Any:
        monkeypatch.setitem(sys.modules, NAME, package)
        monkeypatch.setitem(sys.modules, runtime.__name__, runtime)
        monkeypatch.delitem(sys.modules, f"{NAME}.kernel_cache", raising=False)
        return importlib.import_module(f"{NAME}.kernel_cache")

    return loaded


def test_kernels_are_kept_in_the_user_folder_while_our_code_runs(load, tmp_path: Path):
    module = load()
    with module.kernels_kept():
        assert os.environ[TRITON] == str(tmp_path / "wanduet" / "kernels" / "triton")
        assert os.environ[INDUCTOR] == str(tmp_path / "wanduet" / "kernels" / "inductor")
    assert TRITON not in os.environ
    assert INDUCTOR not in os.environ


def test_what_inductor_sets_for_triton_does_not_move_our_kernels(load, monkeypatch):
    module = load()
    monkeypatch.setenv(TRITON, "/moved/by/inductor")

    @module.kernels_kept()
    def decode() -> str:
        os.environ[INDUCTOR] = "/set/by/inductor"
        return os.environ[TRITON]

    assert decode().endswith("triton")
    assert os.environ[TRITON] == "/moved/by/inductor"
    assert INDUCTOR not in os.environ


def test_what_a_person_chose_stays(load, monkeypatch):
    monkeypatch.setenv(TRITON, "/chosen")
    with load().kernels_kept():
        assert os.environ[TRITON] == "/chosen"
        assert INDUCTOR in os.environ


def test_a_folder_that_cannot_be_written_to_changes_nothing(load, monkeypatch):
    module = load()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with module.kernels_kept():
        assert TRITON not in os.environ
    with pytest.raises(ZeroDivisionError), module.kernels_kept():
        raise ZeroDivisionError
    assert TRITON not in os.environ
