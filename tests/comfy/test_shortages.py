"""A want of file handles passes: nobody remembers a file as bad, or takes it for a missing one."""

import importlib
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from .graphs import T2V, TEXT_ENCODER


@contextmanager
def no_handles() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def host(pack: str, toy_models: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The pack with ComfyUI's folders, and nothing else of ComfyUI."""
    runtime: Any = SimpleNamespace(
        model_names=lambda _: [TEXT_ENCODER],
        model_path=lambda folder, name: toy_models / folder / name,
        listed_file=lambda folder, name: toy_models / folder / name,
        file_stamp=lambda *_: "the same",
    )
    module: Any = ModuleType("host")
    module.runtime = runtime
    monkeypatch.setitem(sys.modules, f"{pack}.nodes._comfy.host", module)
    return pack


def test_what_a_file_is_is_found_out_afterwards(host: str):
    known_files = importlib.import_module(f"{host}.nodes.prompt_check.known_files")
    with no_handles():
        assert known_files.describe_file("diffusion_models", T2V[0]) is None
    assert known_files.describe_file("diffusion_models", T2V[0]) is not None


def test_a_tokenizer_that_cannot_be_looked_at_is_not_missing(host: str):
    tokenizer = importlib.import_module(f"{host}.nodes._comfy.text.tokenizer")
    errors = importlib.import_module(f"{host}.wan_model.errors")
    mine: Any = SimpleNamespace(extras={}, is_gguf=False, path=Path("mine.safetensors"))
    with pytest.raises(errors.ShortageError, match="Too many open files"), no_handles():
        tokenizer.needed_tokenizer(mine, 512)
