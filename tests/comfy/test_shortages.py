"""What keeps a file from being read passes: nobody remembers it as bad, or takes it for missing."""

import errno
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.toy.make_checkpoints import make_dit

resource = pytest.importorskip("resource")

MARK = {"model.diffusion_model.head.modulation": torch.ones(1)}
FOLDERS = {"diffusion_models": "dit.safetensors", "text_encoders": "encoder.safetensors"}


@contextmanager
def no_handles() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def no_answer() -> Iterator[None]:
    """As of a drive on the network."""

    def refused(*_: object, **__: object) -> object:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", refused)
        yield


def import_anew(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has a module be imported for one test alone: it keeps the host that it was imported with."""
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    del sys.modules[name]


@pytest.fixture(params=[no_handles, no_answer])
def trouble(request: pytest.FixtureRequest) -> AbstractContextManager[None]:
    return request.param()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Two files of their own: the whole suite's take seconds to make."""
    states = (make_dit("t2v", "dit"), {"x": torch.ones(1)})
    for (folder, name), state in zip(FOLDERS.items(), states, strict=True):
        (tmp_path / folder).mkdir()
        save_file(state, tmp_path / folder / name)
    return tmp_path


@pytest.fixture
def host(pack: str, models: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The pack with ComfyUI's folders, and nothing else of ComfyUI."""
    runtime: Any = SimpleNamespace(
        model_names=lambda folder: [FOLDERS[folder]],
        model_path=lambda folder, name: models / folder / name,
        listed_file=lambda folder, name: models / folder / name,
        file_stamp=lambda *_: "the same",
    )
    module: Any = ModuleType("host")
    module.runtime = runtime
    monkeypatch.setitem(sys.modules, f"{pack}.nodes._comfy.host", module)
    for name in ("nodes.prompt_check.known_files", "nodes._comfy.text.tokenizer"):
        import_anew(f"{pack}.{name}", monkeypatch)
    return pack


def test_what_a_file_is_is_found_out_afterwards(host: str, trouble: AbstractContextManager[None]):
    known_files = importlib.import_module(f"{host}.nodes.prompt_check.known_files")
    file = ("diffusion_models", FOLDERS["diffusion_models"])
    with trouble:
        assert known_files.describe_file(*file) is None
    assert known_files.describe_file(*file) is not None


def test_a_tokenizer_that_cannot_be_looked_at_is_not_missing(
    host: str, trouble: AbstractContextManager[None]
):
    tokenizer = importlib.import_module(f"{host}.nodes._comfy.text.tokenizer")
    errors = importlib.import_module(f"{host}.wan_model.errors")
    mine: Any = SimpleNamespace(extras={}, is_gguf=False, path=Path("mine.safetensors"))
    with pytest.raises(errors.ShortageError, match=r"Too many open files|output error"), trouble:
        tokenizer.needed_tokenizer(mine, 512)


def test_an_all_in_one_file_that_cannot_be_looked_at_stays_listed(
    pack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save_file(MARK, tmp_path / "aio.safetensors")
    folder_paths: Any = ModuleType("folder_paths")
    folder_paths.get_filename_list = lambda _: ["aio.safetensors"]
    folder_paths.get_full_path = lambda _, name: str(tmp_path / name)
    monkeypatch.setitem(sys.modules, "folder_paths", folder_paths)
    host = ModuleType("host")
    host.__path__ = [str(Path(__file__).parents[2] / "nodes" / "_comfy" / "host")]
    monkeypatch.setitem(sys.modules, f"{pack}.nodes._comfy.host", host)
    import_anew(f"{pack}.nodes._comfy.host.all_in_one", monkeypatch)
    all_in_one = importlib.import_module(f"{pack}.nodes._comfy.host.all_in_one")
    with no_handles():
        assert all_in_one.names("vae") == ["checkpoints/aio.safetensors"]
    with no_answer():
        assert all_in_one.names("vae") == []
    assert all_in_one.names("vae") == ["checkpoints/aio.safetensors"]
