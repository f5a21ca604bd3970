"""What a farm says of a Ray that does not start, or has no GPU left, with a fake in its place."""

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from render_farm import ray_engine
from render_farm.engine import ComfySpec, FarmError
from render_farm.ray_engine import RayEngine

from .fake_comfyui import in_own_loop

SPEC = ComfySpec("main.py", (), "/f", 9000)


class FakeRay:
    """A cluster with two GPUs, on which no actor ever gets its place."""

    def __init__(self) -> None:
        self.exceptions = SimpleNamespace(RayError=type("RayError", (Exception,), {}))
        self.killed: list[Any] = []
        self.problem: Exception | None = None

    def init(self, **_: Any) -> None:
        if self.problem is not None:
            raise self.problem

    def cluster_resources(self) -> dict[str, float]:
        return {"GPU": 2.0}

    def remote(self, _: Any) -> Any:
        start = SimpleNamespace(remote=lambda: asyncio.get_running_loop().create_future())
        actor = SimpleNamespace(start=start)
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *_: actor))

    def kill(self, actor: Any, *, no_restart: bool) -> None:
        assert no_restart
        self.killed.append(actor)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)  # pyright: ignore[reportArgumentType]
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    return fake


@pytest.mark.parametrize("problem", [RuntimeError("Version mismatch"), Exception("timed out")])
def test_a_cluster_that_cannot_be_used(ray: FakeRay, problem: Exception):
    ray.problem = problem
    with pytest.raises(FarmError, match=f"Ray does not start at a:1. Got '{problem}', need"):
        RayEngine(SPEC, 0, "a:1")


def test_more_workers_than_gpus(ray: FakeRay):
    assert RayEngine(SPEC, 0, "a:1").slots == ray.cluster_resources()["GPU"]
    with pytest.raises(FarmError, match="Got 3 workers for 2, need one for each"):
        RayEngine(SPEC, 3, "a:1")


def test_a_computer_that_is_gone(ray: FakeRay, monkeypatch: pytest.MonkeyPatch):
    """Its worker is not waited for without end, and nothing is left of the attempt."""
    monkeypatch.setattr(ray_engine, "PLACE_SECONDS", 0.01)

    async def start() -> None:
        with pytest.raises(FarmError, match=r"no free GPU for worker 2\. Got none in .* need"):
            await RayEngine(SPEC, 0, "a:1").start(2)

    in_own_loop(start())
    assert len(ray.killed) == 1
