"""Where the weights engine is used unasked. The file is read on its own: it needs no ComfyUI."""

import runpy
from collections.abc import Callable

import pytest
import torch

from .server import REPOSITORY


@pytest.fixture
def by_default(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], bool]:
    """Says so for a device, on Nvidia's build of PyTorch."""
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.delenv("WANDUET_MEMORY", raising=False)
    names = runpy.run_path(str(REPOSITORY / "nodes" / "_comfy" / "model" / "placement.py"))
    return lambda device: names["has_engine_by_default"](torch.device(device))


def test_on_nvidia_gpus_only(by_default: Callable[[str], bool], monkeypatch: pytest.MonkeyPatch):
    assert by_default("cuda:1")
    assert not by_default("cpu")
    assert not by_default("mps")
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert not by_default("cuda")


def test_a_person_can_leave_weights_to_comfyui(
    by_default: Callable[[str], bool], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WANDUET_MEMORY", "comfyui")
    assert not by_default("cuda")
