"""What a farm says of a Ray that does not start, or has no GPU left, with a fake in its place."""

import asyncio
import errno
import socket
import subprocess
import sys
import threading
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from render_farm import ray_cluster, ray_engine
from render_farm.engine import ComfySpec, FarmError
from render_farm.ray_cluster import ENVIRONMENT, MOST_MISSED, is_there
from render_farm.ray_engine import RayEngine, RayProcess
from render_farm.waiting import Calls

from .fake_comfyui import in_own_loop

SPEC = ComfySpec("main.py", (), "/f", 9000)


class FakeRay:
    """A cluster with two GPUs, on which no actor ever gets its place."""

    def __init__(self) -> None:
        self.exceptions = SimpleNamespace(RayError=type("RayError", (Exception,), {}))
        self.killed: list[Any] = []
        self.problem: Exception | None = None
        self.starts = 0
        self.up = False
        self.ends = False

    def init(self, **_: Any) -> None:
        self.starts += 1
        if self.problem is not None:
            raise self.problem
        self.up = True

    def is_initialized(self) -> bool:
        return self.up

    def cluster_resources(self) -> dict[str, float]:
        return {"GPU": 2.0}

    def remote(self, _: Any) -> Any:
        def start() -> asyncio.Future[Any]:
            if self.ends:
                self.shutdown()
            return asyncio.get_running_loop().create_future()

        actor = SimpleNamespace(start=SimpleNamespace(remote=start))
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *_: actor))

    def shutdown(self) -> None:
        self.up = False

    def kill(self, actor: Any, *, no_restart: bool) -> None:
        assert no_restart
        if not self.up:  # as Ray does
            self.init()
        self.killed.append(actor)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)  # pyright: ignore[reportArgumentType]
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, "0")
    monkeypatch.setattr(ray_engine, "is_there", lambda _: True)
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


def test_ray_has_ended(ray: FakeRay, monkeypatch: pytest.MonkeyPatch):
    """It is started anew for the next worker. Those of before are not waited for, or killed."""
    monkeypatch.setattr(ray_engine, "PLACE_SECONDS", 0.01)

    async def story() -> None:
        engine = RayEngine(SPEC, 1, "a:1")
        never = SimpleNamespace(remote=lambda: asyncio.get_running_loop().create_future())
        before = RayProcess(ray, SimpleNamespace(wait=never), "h", 1, 1, engine.left, Calls())
        waiting = asyncio.ensure_future(before.wait())
        for there, starts in ((True, 1), (False, 2)):
            monkeypatch.setattr(ray_engine, "is_there", lambda _, there=there: there)
            with pytest.raises(FarmError):
                await engine.start(1)
            assert ray.starts == starts
        killed = len(ray.killed)
        await before.end()
        assert len(ray.killed) == killed
        assert await asyncio.wait_for(waiting, 300) == "Ray has ended"

    in_own_loop(story())


def test_nothing_starts_a_ray_that_has_ended(ray: FakeRay, monkeypatch: pytest.MonkeyPatch):
    """Ray starts one of its own where somebody kills an actor without it."""
    monkeypatch.setattr(ray_engine, "PLACE_SECONDS", 0.01)

    async def story() -> None:
        engine = RayEngine(SPEC, 1, "a:1")
        process = RayProcess(ray, None, "h", 1, 1, engine.left, Calls())
        ray.ends = True
        with pytest.raises(FarmError, match="no free GPU"):
            await engine.start(1)
        await process.end()

    in_own_loop(story())
    assert (ray.starts, ray.killed) == (1, [])


@pytest.mark.parametrize("hangs", ["is_there", "actor", "shutdown", "kill"])
def test_ray_does_not_answer(hangs: str, ray: FakeRay, monkeypatch: pytest.MonkeyPatch):
    """The farm goes on meanwhile, in one thread more at most, and uses Ray as it answers again."""
    monkeypatch.setattr(ray_engine, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(ray_engine, "END_SECONDS", 0.05)
    monkeypatch.setattr(ray_engine, "PLACE_SECONDS", 0.01)
    answers, asked, to_kill = threading.Event(), [], []

    def never(result: Any) -> Any:
        asked.append(hangs)
        assert answers.wait(300)
        return result

    if hangs == "actor":
        actor = ray.remote(None)
        monkeypatch.setattr(ray, "remote", lambda _: never(actor))
    elif hangs == "kill":
        kill = ray.kill
        monkeypatch.setattr(ray, "kill", lambda actor, **how: never(kill(actor, **how)))
    else:
        there = (lambda _: never(True)) if hangs == "is_there" else (lambda _: not ray.up)
        monkeypatch.setattr(ray_engine, "is_there", there)
        monkeypatch.setattr(ray, "shutdown", lambda: never(setattr(ray, "up", False)))

    async def story() -> None:
        engine = RayEngine(SPEC, 2, "a:1")

        async def say() -> list[Any]:
            starts = (engine.start(slot) for slot in (1, 2))
            said = await asyncio.gather(*starts, return_exceptions=True)
            to_kill.extend(error for error in said if "no free GPU" in str(error))
            return said

        while not asked:  # a busy machine may not get there in time
            await say()
        for _ in range(3):
            assert all("Ray does not answer" in str(error) for error in await say())
        assert asked == [hangs]
        answers.set()
        monkeypatch.setattr(ray_engine, "ANSWER_SECONDS", 300.0)
        monkeypatch.setattr(ray_engine, "END_SECONDS", 300.0)
        with pytest.raises(FarmError, match="no free GPU"):
            await engine.start(1)
        assert hangs != "kill" or len(ray.killed) == len(to_kill) + 1  # with those not waited for

    in_own_loop(story())


def test_the_program_ends_without_ray():
    """Ray's own end waits for a cluster that does not answer."""
    story = """
import asyncio, atexit, sys, threading
from types import SimpleNamespace as Some
never = threading.Event().wait
ray = sys.modules["ray"] = Some(init=lambda **_: atexit.register(never), shutdown=never)
ray.cluster_resources = dict
from render_farm import ray_engine
from render_farm.engine import ComfySpec
ray_engine.END_SECONDS = 0.01
asyncio.run(ray_engine.RayEngine(ComfySpec("main.py", ("--cpu",), "/f", 1), 1, "a:1").close())
print("closed", flush=True)
"""
    command, root = [sys.executable, "-c", story], Path(__file__).parents[3]
    ended = subprocess.run(command, cwd=root, timeout=300, stdout=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stdout.strip()) == (1, "closed")


@pytest.mark.parametrize(
    ("number", "looks", "there"),
    [
        (errno.EMFILE, 1, True),
        (errno.ENOMEM, 1, True),
        (errno.ECONNREFUSED, 1, False),
        (errno.ETIMEDOUT, MOST_MISSED, False),
        (errno.EHOSTUNREACH, MOST_MISSED, False),
    ],
)
def test_what_a_look_without_an_answer_says(
    number: int, looks: int, there: bool, monkeypatch: pytest.MonkeyPatch
):
    """Only a refusal is certain; a shortage here says nothing of Ray."""
    seen: list[Any] = []

    def connect(place: Any, _: float) -> None:
        seen.append(place)
        raise OSError(number, "")

    monkeypatch.setattr(ray_cluster, "CONNECT_SECONDS", 0.0)
    monkeypatch.setattr(ray_cluster, "socket", SimpleNamespace(create_connection=connect))
    node = {"NodeID": "n", "Alive": True, "NodeManagerAddress": "h", "NodeManagerPort": 1}
    context = SimpleNamespace(gcs_address="head:6379", get_node_id=lambda: "n")
    ray: Any = SimpleNamespace(
        is_initialized=lambda: True, get_runtime_context=lambda: context, nodes=lambda: [node]
    )
    assert is_there(ray) == there
    assert seen.count(("head", 6379)) == looks


def test_who_is_there():
    """Both parts of Ray are needed: the cluster's, and this computer's."""
    with socket.socket() as open_port, socket.socket() as closed_port:
        for each in (open_port, closed_port):
            each.bind(("127.0.0.1", 0))
        open_port.listen()
        ports = {True: open_port.getsockname()[1], False: closed_port.getsockname()[1]}
        for head, here, alive in product((True, False), repeat=3):
            node = {"NodeID": "n", "Alive": alive, "NodeManagerAddress": "127.0.0.1"}
            node["NodeManagerPort"] = ports[here]
            context = SimpleNamespace(
                gcs_address=f"127.0.0.1:{ports[head]}", get_node_id=lambda: "n"
            )
            ray = SimpleNamespace(
                is_initialized=lambda: True,
                get_runtime_context=lambda context=context: context,
                nodes=lambda node=node: [node],
            )
            assert is_there(ray) == (head and here and alive)
