"""What a loader says of missing attention kernels. The file is read without ComfyUI."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from .bare_pack import BarePack


@pytest.fixture
def choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The loaders' questions about attention, with a user folder of its own."""
    runtime: Any = {"cache_folder": lambda: tmp_path / "wanduet", "on_device": nullcontext}
    pack = BarePack(monkeypatch, "advised", **runtime)
    return pack.module("nodes._comfy.model.attention_choice")


def test_it_is_said_once_a_machine_and_never_on_a_cpu(choice: Any, monkeypatch: pytest.MonkeyPatch):
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(name=name)

    gpu = choice.Platform("cuda", "NVIDIA Test GPU", (8, 9), absent, lambda _: None)
    monkeypatch.setattr(choice.Platform, "current", lambda: gpu)
    assert choice.what_to_install(torch.device("cpu")) == []
    (line,) = choice.what_to_install(torch.device("cuda"))
    assert line.startswith("SageAttention 2, int8 and fp8 (RTX 40 and 50) is not there, which ")
    assert line.endswith("Then choose attention 'auto_fast'.")
    assert choice.what_to_install(torch.device("cuda")) == []


def test_a_plan_names_the_kernel_that_is_remembered(choice: Any, monkeypatch: pytest.MonkeyPatch):
    gpu = choice.Platform("cuda", "NVIDIA Test GPU", (9, 0), lambda _: object(), lambda _: None)
    monkeypatch.setattr(choice.Platform, "current", lambda: gpu)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")

    def planned(name: str, device: torch.device, **options: bool) -> str:
        return choice.planned(name, device, torch.bfloat16, **options)[1]

    assert planned("auto", cpu) == "attention: sdpa"
    waiting = "chooses sdpa: until the backends are compared, when 'auto' is first used"
    assert planned("auto", cuda) == f"attention: auto {waiting}"
    assert planned("auto_fast", cuda) == f"attention: auto_fast {waiting}"
    with pytest.raises(ValueError, match="Got 'sage', which "):
        planned("sage", cuda)
    assert "slower: kitchen_sol is missing" in planned("auto", cuda, trained_sparse=True)

    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(choice, "measure", full)
    for name in ("auto", "auto_fast"):
        said = choice.choose(name, cuda, torch.bfloat16)[1]
        assert said == f"attention: {name} chooses sdpa: {choice.NO_ROOM}"
