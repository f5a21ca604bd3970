"""Embeddings on disk that other servers remove, at the moments that matter; without ComfyUI."""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

TOKENS = [7, 8, 1]


class Clip:
    """As much of a CLIP as embeddings are made with; its embeddings are never the same."""

    def __init__(self) -> None:
        inner = SimpleNamespace(tokenizer=lambda _: {"input_ids": TOKENS})
        self.tokenizer = SimpleNamespace(clip_name="umt5xxl", clip="inner", inner=inner)
        self.patcher = SimpleNamespace(
            get_attachment=lambda _: "one",
            object_patches={},
            patches={},
            forced_hooks=None,
            load_device=torch.device("cpu"),
        )
        self.cond_stage_model = torch.nn.Linear(1, 1)
        self.layer_idx = None
        self.made = 0

    def encode_from_tokens(self, _: object) -> torch.Tensor:
        self.made += 1
        return torch.full((1, len(TOKENS), 4), float(self.made))


@pytest.fixture
def embeddings(pack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, with a cache in a folder of the test's."""
    for name, contents in {
        "comfy": {},
        "comfy.sd": {"CLIP": object},
        f"{pack}.nodes._comfy.host": {},
        f"{pack}.nodes._comfy.host.runtime": {"cache_folder": lambda: tmp_path},
        f"{pack}.nodes._comfy.text.umt5": {"ENCODER": "encoder"},
    }.items():
        module = ModuleType(name)
        module.__path__ = []
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    vars(sys.modules["comfy"])["sd"] = sys.modules["comfy.sd"]
    name = f"{pack}.nodes._comfy.text.embeddings"
    monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module(name)


def before(call: Callable[..., Any], file: Path) -> Callable[..., Any]:
    """A call that finds a file gone when it begins."""

    def called(*values: Any, **named: Any) -> Any:
        file.unlink(missing_ok=True)
        return call(*values, **named)

    return called


@pytest.mark.parametrize("moment", ["load_file", "utime"])
def test_one_that_goes_at_that_moment(
    moment: str,
    embeddings: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    clip = Clip()
    first, _ = embeddings.encode(clip, "a cat")
    (file,) = tmp_path.rglob("*.safetensors")
    again, _ = embeddings.encode(clip, "a cat")
    assert clip.made == 1
    assert torch.equal(again, first)
    where = embeddings if moment == "load_file" else os
    monkeypatch.setattr(where, moment, before(getattr(where, moment), file))
    found, _ = embeddings.encode(clip, "a cat")
    assert found.shape == first.shape
    assert clip.made == (2 if moment == "load_file" else 1)
    assert file.is_file() == (moment == "load_file")
    assert not caplog.records


def test_ones_that_go_while_room_is_made(
    embeddings: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    """The other server removes what this one has just listed."""
    clip = Clip()
    embeddings.encode(clip, "a cat")
    (file,) = tmp_path.rglob("*.safetensors")
    other = file.with_name("other.safetensors")
    other.write_bytes(bytes(8))
    stat = Path.stat

    def gone(path: Path, **named: Any) -> os.stat_result:
        if path == other:
            other.unlink(missing_ok=True)
        return stat(path, **named)

    file.unlink()
    monkeypatch.setattr(Path, "stat", gone)
    embeddings.encode(clip, "a cat")
    assert file.is_file()
    assert not other.exists()
    assert not caplog.records
