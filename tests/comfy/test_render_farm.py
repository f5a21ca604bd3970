"""Two real ComfyUIs behind one address: clients, files, cancelling, and a worker that dies.

The same with Ray where `WANDUET_RAY_PACKAGES` names a folder to find it in.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import websocket
from PIL import Image

from .client import ComfyClient, PromptRejected
from .graphs import Prompt, experts, image_to_video, moe_sampler, node, prompts, vae
from .server import LAUNCHER, REPOSITORY, free_ports, prepare, server_environment

pytestmark = pytest.mark.comfy

PACKAGES = os.environ.get("WANDUET_RAY_PACKAGES", "")
START_SECONDS = 600
NOT_FOUND = 404
MAIN = """import runpy, sys
sys.argv[1:1] = [{main!r}]
runpy.run_path({launcher!r}, run_name="__main__")
"""
"""Starts ComfyUI as all tests do, in the place of its own main.py."""


class Farm(ComfyClient):
    """A running farm and its folders."""

    def __init__(self, port: int, base: Path) -> None:
        super().__init__(f"127.0.0.1:{port}")
        self.base = base

    def workers(self) -> list[dict[str, Any]]:
        return self.get("/wanduet/farm")["workers"]

    def wait_for(self, what: Any, seconds: float = 600) -> Any:
        """Waits until something is true, and returns it."""
        deadline = time.monotonic() + seconds
        while not (found := what()):
            assert time.monotonic() < deadline, f"{self.workers()}\n{self.logs()}"
            time.sleep(0.05)
        return found

    def running(self, prompt_id: str) -> dict[str, Any] | None:
        """Returns the worker that runs a prompt."""
        return next((w for w in self.workers() if w["prompt_id"] == prompt_id), None)

    def done(self, prompt_id: str) -> dict[str, Any]:
        return self.wait_for(lambda: self.history(prompt_id))

    def logs(self) -> str:
        files = sorted(self.base.glob("**/*.log"))
        return "\n".join(f"{file}:\n{file.read_text()[-3000:]}" for file in files)


@contextmanager
def farm_process(base: Path, comfyui: Path, *options: str) -> Iterator[Farm]:
    """Runs a farm of two workers as a person would start it."""
    (base / "comfyui").mkdir()
    main = {"main": str(comfyui / "main.py"), "launcher": str(LAUNCHER)}
    (base / "comfyui" / "main.py").write_text(MAIN.format(**main))
    environment = server_environment()
    paths = [environment["PYTHONPATH"], PACKAGES]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    log = (base / "front.log").open("w")
    with free_ports() as port, free_ports(2) as first, log:
        ports = ["--port", str(port), "--worker-port", str(first)]
        command = [
            *(sys.executable, "-m", "render_farm", "--comfyui", str(base / "comfyui")),
            *("--workers", "2", *ports, "--folder", str(base / "farm"), *options),
            *("--", "--cpu", "--base-directory", str(base), "--disable-api-nodes"),
        ]
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env={**os.environ, **environment}, stdout=log, stderr=log
        )
        try:
            yield Farm(port, base)
        finally:
            process.terminate()
            try:
                process.wait(300)
            finally:
                process.kill()  # one that hangs holds ports and processes of all that follow


@pytest.fixture(scope="module", params=["processes", "ray"])
def farm(
    request: pytest.FixtureRequest,
    comfyui: Path,
    toy_models: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Farm]:
    """A farm of two workers, which leaves no process behind."""
    if request.param == "ray" and not PACKAGES:
        pytest.skip("No Ray. Set WANDUET_RAY_PACKAGES.")
    base = tmp_path_factory.mktemp("farm")
    prepare(base, toy_models, ["helper_nodes.py"])
    options = [] if request.param == "ray" else ["--without-ray"]
    with farm_process(base, comfyui, *options) as farm:
        deadline = time.monotonic() + START_SECONDS
        while not _all_ready(farm):
            assert time.monotonic() < deadline, farm.logs()
            time.sleep(0.2)
        yield farm
        pids = [worker["pid"] for worker in farm.workers()]
    for pid in pids:
        deadline = time.monotonic() + 300
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not Path(f"/proc/{pid}").exists(), "a worker outlives the farm"


def _all_ready(farm: Farm) -> bool:
    try:
        return all(worker["state"] == "ready" for worker in farm.workers())
    except OSError:
        return False


def video(seed: int) -> Prompt:
    """A video whose frames are saved under a name that all prompts share."""
    prompt = {**prompts(), **vae(), **experts()}
    prompt |= {**image_to_video(), **moe_sampler(seed=seed)}
    prompt["image"] = node("WanDuetVAEDecode", vae=("vae", 0), samples=("sampler", 0), tiling="off")
    prompt["save"] = node("SaveImage", images=("image", 0), filename_prefix="frame")
    return prompt


def held(seed: int, name: str = "never") -> Prompt:
    """A video that goes on, however long that takes, once there is a file NAME.go."""
    prompt, waits = video(seed), {"name": name, "free": 0, "seconds": 1000.0}
    prompt["waits"] = node("WanDuetTestWaitForFile", model=("experts", 0), **waits)
    prompt["sampler"]["inputs"]["model_high"] = ["waits", 0]
    return prompt


class Listener:
    """A client's connection, with all that came on it."""

    def __init__(self, farm: Farm) -> None:
        self.client_id = uuid.uuid4().hex
        self.socket = websocket.create_connection(
            f"ws://{farm.address}/ws?clientId={self.client_id}", timeout=300
        )
        self.messages: list[dict[str, Any]] = []

    def listen(self) -> tuple[str, dict[str, Any]]:
        """Returns kind and data of the next message."""
        while not isinstance(message := self.socket.recv(), str):
            pass
        self.messages.append(json.loads(message))
        return self.messages[-1]["type"], self.messages[-1]["data"]

    def until_end_of(self, prompt_id: str) -> None:
        """Listens until a prompt has ended."""
        while True:
            kind, data = self.listen()
            if kind == "executing" and data["node"] is None and data["prompt_id"] == prompt_id:
                return

    def until_begun(self, prompt_id: str, times: int = 1) -> None:
        """Listens until a prompt runs; one that was sent to a worker may not yet."""
        while self.prompts("execution_start").count(prompt_id) < times:
            self.listen()

    def prompts(self, kind: str) -> list[str]:
        """Returns the prompts that messages of a kind were about."""
        return [m["data"]["prompt_id"] for m in self.messages if m["type"] == kind]


def newer_list(farm: Farm, question: str = "") -> list[dict[str, Any]] | None:
    """Returns the prompts of `/api/jobs`, None where the workers have no such route."""
    try:
        return farm.get(f"/api/jobs{question}")["jobs"]
    except urllib.error.HTTPError as error:
        if error.code != NOT_FOUND:
            raise
        return None


def test_two_clients(farm: Farm):
    """Both workers run; each client hears of its own; files of equal names are two files."""
    one, two = Listener(farm), Listener(farm)
    first = [farm.queue(prompt, one.client_id) for prompt in (held(1, "queued"), video(2))]
    second = farm.queue(video(3), two.client_id)
    (farm.base / "output").mkdir(exist_ok=True)
    (farm.base / "output" / "queued.go").touch()
    two.until_end_of(second)
    one.until_end_of(first[0])
    assert farm.history(first[0]), "what clients are told to be done has a record"
    if first[1] not in one.prompts("execution_success"):
        one.until_end_of(first[1])

    assert set(one.prompts("progress")) == set(first)
    assert set(two.prompts("progress")) == {second}
    assert one.messages[0]["type"] == "status"
    assert one.messages[0]["data"]["sid"] == one.client_id
    assert all(worker["served"] for worker in farm.workers())
    names = []
    for prompt_id in (*first, second):
        record = farm.history(prompt_id)
        assert record["status"]["status_str"] == "success"
        assert record["prompt"][2]["save"]["inputs"]["filename_prefix"] == "frame"
        images = record["outputs"]["save"]["images"]
        assert farm.view(images[0])[1:4] == b"PNG"
        names += [image["filename"] for image in images]
    assert len(set(names)) == len(names) == 15
    assert {name.split("_")[1] for name in names} == {"w1", "w2"}
    jobs = newer_list(farm)
    if jobs is not None:
        assert sorted(job["id"] for job in jobs) == sorted((*first, second))
        assert {job["status"] for job in jobs} == {"completed"}
        assert {job["preview_output"]["filename"] for job in jobs} <= set(names)
        created = [job["create_time"] for job in jobs]
        assert created == sorted(created, reverse=True)
        one_job = farm.get(f"/api/jobs/{second}")
        assert one_job["outputs"] == farm.history(second)["outputs"]
        assert one_job["workflow"]["prompt"] == farm.history(second)["prompt"][2]


def test_files_and_what_all_workers_say(farm: Farm, tmp_path: Path):
    image = tmp_path / "sent.png"
    Image.new("RGB", (64, 48)).save(image)
    name = farm.upload_image(image)
    preview = {"a": node("LoadImage", image=name), "b": node("PreviewImage", images=("a", 0))}
    (shown,) = farm.run(preview).outputs["b"]["images"]
    assert shown["type"] == "temp"
    assert farm.view(shown)[1:4] == b"PNG"
    assert len(farm.get("/system_stats")["devices"]) == 2
    assert farm.get("/api/prompt") == {"exec_info": {"queue_remaining": 0}}
    assert "WanDuetMoESampler" in farm.object_info()
    assert b"<html" in farm.request("/")
    with pytest.raises(PromptRejected) as refusal:
        farm.queue({**preview, "a": node("LoadImage", image="missing.png")})
    assert refusal.value.node_errors["a"]["errors"]
    assert farm.get("/queue") == {"queue_running": [], "queue_pending": []}


def test_waiting_cancelling_and_a_death(farm: Farm):
    """Two long prompts run; of three that wait one is deleted, a worker dies, all others end."""
    listener = Listener(farm)
    long = [farm.queue(held(seed), listener.client_id) for seed in (11, 12)]
    waiting = [farm.queue(video(seed), listener.client_id) for seed in (13, 14, 15)]
    assert farm.post("/queue", {"delete": [waiting[1]]}) is None
    queue = farm.get("/queue")
    assert sorted(item[1] for item in queue["queue_running"]) == sorted(long)
    assert [item[1] for item in queue["queue_pending"]] == [waiting[0], waiting[2]]
    assert farm.get("/prompt") == {"exec_info": {"queue_remaining": 4}}
    jobs = newer_list(farm, "?status=pending,in_progress")
    if jobs is not None:
        assert {job["id"]: job["status"] for job in jobs} == {
            **dict.fromkeys(long, "in_progress"),
            **dict.fromkeys((waiting[0], waiting[2]), "pending"),
        }

    for prompt_id in long:
        listener.until_begun(prompt_id)
    worker = farm.wait_for(lambda: farm.running(long[0]))
    farm.wait_for(lambda: Path(f"/proc/{worker['pid']}").exists())
    os.kill(worker["pid"], signal.SIGKILL)
    farm.wait_for(lambda: worker["pid"] not in [w["pid"] for w in farm.workers()])
    farm.post("/interrupt", {"prompt_id": long[1]})
    other = farm.wait_for(lambda: farm.running(long[0]))
    assert other["worker"] != worker["worker"], "it runs again on another"
    listener.until_begun(long[0], times=2)
    farm.post("/interrupt", {"prompt_id": long[0]})
    farm.done(waiting[0])
    farm.done(waiting[2])

    records = farm.get("/history")
    for prompt_id in long:
        kinds = [kind for kind, _ in records[prompt_id]["status"]["messages"]]
        assert "execution_interrupted" in kinds
    assert records[waiting[2]]["status"]["status_str"] == "success"
    assert waiting[1] not in records
    jobs = newer_list(farm, "?status=cancelled")
    assert jobs is None or {job["id"] for job in jobs} == set(long)
    assert farm.get("/prompt") == {"exec_info": {"queue_remaining": 0}}
    while set(listener.prompts("execution_success")) != {waiting[0], waiting[2]}:
        listener.until_end_of(waiting[2])
    assert listener.prompts("execution_start").count(long[0]) == 2
    again = {"prompt": video(16), "prompt_id": waiting[0], "client_id": ""}
    assert farm.post("/prompt", again)["prompt_id"] == waiting[0], "known, so not run again"
    assert farm.get("/prompt") == {"exec_info": {"queue_remaining": 0}}
