"""What a loader's widgets mean on each device. The files are read without ComfyUI."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from .bare_pack import BarePack

FIRST, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)
CAPABILITIES = {FIRST: (9, 0), SECOND: (7, 5)}
SEQUENCE = 12_000
"""Tokens from which sparse attention pays."""


@pytest.fixture(scope="module")
def computing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The module, on a machine with two GPUs, of which the second is too old for most kernels."""
    with pytest.MonkeyPatch.context() as patches:
        yield on_two_gpus(patches, tmp_path_factory.mktemp("computing"))


def on_two_gpus(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Any:
    current = [FIRST]

    @contextmanager
    def on_device(device: torch.device) -> Iterator[None]:
        current.insert(0, device)
        yield
        current.pop(0)

    halves = {FIRST: torch.bfloat16, SECOND: torch.float16}
    pack = BarePack(
        monkeypatch,
        "two",
        cache_folder=lambda: folder / "wanduet",
        on_device=on_device,
        compute_dtype=lambda _, device: halves[device],
    )
    found = pack.module("nodes._comfy.model.computing")
    backend = pack.module("wan_model.attention.backend")
    kernels = pack.module("wan_model.quant.kernels")
    kitchen = SimpleNamespace(sol_attn=lambda q, *_, **__: q, sol_attn_is_available=lambda: True)

    def find(name: str) -> Any:
        if name == "comfy_kitchen":
            return kitchen
        raise ModuleNotFoundError(name=name)

    def platform() -> Any:
        capability = CAPABILITIES[current[0]]
        return backend.Platform("cuda", f"GPU {current[0].index}", capability, find, lambda _: None)

    monkeypatch.setattr(backend.Platform, "current", platform)
    monkeypatch.setattr(kernels.MatmulKernel, "_failed_trial", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", CAPABILITIES.__getitem__)
    return found


def resolved(computing: Any, device: torch.device, speed: str = "fastest", **options: Any) -> Any:
    formats = {f.name: f for f in importlib.import_module("two.wan_model.quant").FORMATS}
    tier = importlib.import_module("two.wan_model.presets").find_tier(speed)
    info = SimpleNamespace(
        format="fp8 scaled",
        formats=[formats["fp8 scaled"]],
        full_precision=True,
        trained_sparse=options.pop("trained_sparse", False),
    )
    wanted = computing.Wanted("auto", options.pop("attention", "auto"), tier)
    return computing.computing(wanted, [info], device, measured=False, **options)


def test_each_device_does_what_it_can_of_a_tier(computing: Any):
    found = {device: resolved(computing, device) for device in (FIRST, SECOND)}
    first, second, third, fourth = computing.said_of_devices(found)
    assert first == "cuda:0: fp8 matmuls: the file holds fp8; this GPU (9.0) multiplies it"
    assert second.startswith("cuda:0: attention: kitchen_sol in the last 80% of the steps")
    assert third.startswith("cuda:1: fp16 matmuls: the file holds fp8; ")
    assert fourth.startswith("cuda:1: attention: auto_fast chooses sdpa: until ")
    needs = "needs compute capability 8.0 or newer, and GPU 1 has 7.5"
    assert fourth.endswith(f"first used; kitchen_sol {needs}")
    same = computing.said_of_devices(dict.fromkeys(found, found[FIRST]))
    assert same == [line.removeprefix("cuda:0: ") for line in (first, second)]


def test_what_is_chosen_by_name_is_refused_by_the_device_that_cannot(computing: Any):
    assert resolved(computing, FIRST, "auto", attention="kitchen_sol").attend.sparse
    with pytest.raises(ValueError, match="Got 'kitchen_sol', which needs compute capability"):
        resolved(computing, SECOND, "fast", attention="kitchen_sol")


@pytest.mark.parametrize(
    ("options", "device", "tokens", "said"),
    [
        ({}, FIRST, SEQUENCE - 1, "video has 11999 tokens, and the faster kind begins at 12000"),
        ({}, FIRST, SEQUENCE, ""),
        ({"trained_sparse": True}, FIRST, 20, ""),
        ({}, SECOND, 20, ""),
    ],
)
def test_a_video_that_is_too_short_for_sparse_attention(
    computing: Any, options: dict[str, Any], device: torch.device, tokens: int, said: str
):
    attend = resolved(computing, device, **options).attend
    lines = computing.said_of_few_tokens(attend, tokens)
    assert [bool(line and line.endswith(said)) for line in lines] == [True] * bool(said)
