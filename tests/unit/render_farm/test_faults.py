"""Workers that hang, lack a file, lose a connection or do not start."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from render_farm import clients as clients_module
from render_farm import crew as crew_module
from render_farm import local_engine
from render_farm import worker as worker_module
from render_farm.farm import Farm
from render_farm.local_engine import LocalProcess
from render_farm.worker import Worker

from .fake_comfyui import LONG, FakeEngine, in_own_loop
from .test_farm import Person, idle, ready, running, tell, until


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(crew_module, "LONGEST_PAUSE", 0.02)
    monkeypatch.setattr(crew_module, "POLL_SECONDS", 0.01)


def asking_for(model: str) -> dict[str, object]:
    return {"prompt": {"1": {"inputs": {"seconds": 0.0, "model": model}}}}


async def run_where_the_file_is(person: Person, engine: FakeEngine, seconds: float) -> str:
    """Waits until a prompt runs that only the second worker has a file for; returns its name."""
    engine.files[2].add("two.gguf")
    name = await person.queue(seconds, "two.gguf")
    await until(lambda: asyncio.sleep(0, name in engine.alive[2].running))
    return name


def test_a_file_that_one_worker_lacks():
    """Whoever is asked first: the other one runs the prompt. It fails if no other is left."""

    async def story(person: Person, engine: FakeEngine) -> None:
        engine.files[1].add("one.gguf")
        engine.files[2].add("two.gguf")
        for busy in (False, True):
            long = [await person.queue(LONG) for _ in range(2 * busy)]
            names = []
            for _ in range(2):
                names += [await person.queue(0.0, model) for model in ("one.gguf", "two.gguf")]
            await person.post("/interrupt", {})
            await idle(person)
            history = await person.get("/history")
            assert [history[name]["outputs"]["by"] for name in names] == [1, 2, 1, 2]
            assert set(long) <= set(history)
        assert (await person.post("/prompt", asking_for("none.gguf")))[0] == 400

        for _ in range(2):
            await person.queue(LONG)
        name = await person.queue(model="shared.safetensors")
        for files in engine.files.values():
            files.clear()
        await person.post("/interrupt", {})
        message = (await until(lambda: person.get(f"/history/{name}")))[name]
        assert "finds it invalid. Got 'no shared" in str(message["status"])

    tell(story)


def test_the_only_worker_with_a_file_comes_back(monkeypatch: pytest.MonkeyPatch):
    """A prompt waits for it, though all that live refuse it, and though it has died with it."""
    monkeypatch.setattr(crew_module, "LONGEST_PAUSE", 0.2)

    async def story(person: Person, engine: FakeEngine) -> None:
        name = await run_where_the_file_is(person, engine, 0.3)
        await engine.alive[2].end()
        found = await until(lambda: person.get(f"/history/{name}"))
        assert found[name]["outputs"]["by"] == 2

    tell(story)


def test_nobody_waits_for_a_slot_that_does_not_start(monkeypatch: pytest.MonkeyPatch):
    """However long each start takes: only who was ready has lived."""
    monkeypatch.setattr(crew_module, "STEADY_SECONDS", 0.0)

    async def story(person: Person, engine: FakeEngine) -> None:
        name = await run_where_the_file_is(person, engine, LONG)
        engine.broken = OSError("No space left.")
        await engine.alive[2].end()
        found = await until(lambda: person.get(f"/history/{name}"))
        assert "finds it invalid" in str(found[name]["status"])
        engine.broken = None
        await ready(person, 2)

    tell(story)


def have_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps healthy workers from being ended where a busy machine makes them slow."""
    monkeypatch.setattr(crew_module, "SILENT_SECONDS", 300.0)
    monkeypatch.setattr(worker_module, "ANSWER_SECONDS", 300.0)


def test_a_worker_that_hangs(monkeypatch: pytest.MonkeyPatch):
    """Nobody is kept waiting once that is noticed, and it is ended; what it ran runs on another."""
    monkeypatch.setattr(crew_module, "SILENT_SECONDS", 2.5)
    monkeypatch.setattr(crew_module, "HEARTBEAT_SECONDS", 1.0)
    monkeypatch.setattr(crew_module, "SURVEY_SECONDS", 0.05)
    ask = Worker.ask

    async def story(person: Person, engine: FakeEngine) -> None:
        hung = engine.alive[1]

        async def asked(worker: Worker, *question: Any) -> Any:
            """A busy machine may keep the others from an answer for as long."""
            seconds = 0.5 if worker.process is hung else 300.0
            monkeypatch.setattr(worker_module, "ANSWER_SECONDS", seconds)
            return await ask(worker, *question)

        monkeypatch.setattr(Worker, "ask", asked)
        names = [await person.queue(0.4), await person.queue(0.4)]
        hung.hang()
        await asyncio.sleep(0.6)  # it is noticed at the next survey
        names.append(await asyncio.wait_for(person.queue(), 60))
        assert await asyncio.wait_for(person.get("/system_stats"), 60)
        await until(lambda: asyncio.sleep(0, engine.alive[1] is not hung))
        have_patience(monkeypatch)
        await idle(person)
        history = await person.get("/history")
        assert set(history) == set(names)
        assert all(record["outputs"] for record in history.values())

    tell(story)


def test_a_computer_that_is_gone(monkeypatch: pytest.MonkeyPatch):
    """Its worker closes nothing, and nobody tells of its end: whoever waits for it is answered."""
    monkeypatch.setattr(crew_module, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(crew_module, "END_SECONDS", 0.05)

    async def story(person: Person, engine: FakeEngine) -> None:
        gone = engine.alive[1]
        await until(lambda: asyncio.sleep(0, gone.sockets))  # it is watched
        name = await person.queue(0.3)
        half = await person.session.get(person.url + "/view?filename=half")
        gone.vanish()
        upload = asyncio.ensure_future(person.session.post(person.url + "/upload/image"))
        for _ in range(200):
            await asyncio.sleep(0)  # it is on its way there
        monkeypatch.setattr(crew_module, "SILENT_SECONDS", 0.3)
        got = bytearray()

        async def read() -> None:
            async for piece in half.content.iter_any():
                got.extend(piece)

        await asyncio.wait_for(until(lambda: asyncio.sleep(0, engine.alive[1] is not gone)), 60)
        have_patience(monkeypatch)
        assert (await asyncio.wait_for(upload, 60)).status == 502
        with pytest.raises(aiohttp.ClientError):
            await read()
        assert set(got) <= set(b"x"), "no second answer behind a part of the first"
        await idle(person)
        assert (await person.get("/history"))[name]["outputs"], "it has run again"
        await gone.come_back()

    tell(story, 1)


def test_a_client_that_takes_nothing(monkeypatch: pytest.MonkeyPatch):
    """It is let go, and keeps nobody waiting: neither its worker's successor nor other clients."""
    monkeypatch.setattr(clients_module, "SEND_SECONDS", 0.1)

    async def story(person: Person, engine: FakeEngine) -> None:
        port = int(person.url.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        keys = "Sec-WebSocket-Key: MDEyMzQ1Njc4OTAxMjM0NQ==\r\nSec-WebSocket-Version: 13\r\n"
        head = (
            f"GET /ws?clientId=stuck HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        )
        writer.write(f"{head}Connection: Upgrade\r\n{keys}\r\n".encode())
        first = engine.alive[1]
        await until(lambda: asyncio.sleep(0, "stuck" in first.sockets))
        name = await person.queue(LONG, client_id="stuck")
        await person.listen("other")
        much = {"prompt_id": name, "much": "x" * (1 << 20)}
        try:
            flood = asyncio.gather(*(first.tell("progress", much, "stuck") for _ in range(16)))
            await asyncio.wait_for(flood, 120)
            for life in (2, 3):
                await engine.alive[1].end()
                await asyncio.wait_for(
                    until(lambda n=life: asyncio.sleep(0, len(engine.all) == n)), 60
                )
                await ready(person, 1)
            assert "ended two workers" in str(
                (await person.get(f"/history/{name}"))[name]["status"]
            )
            after = await person.queue(client_id="other")
            await until(lambda: asyncio.sleep(0, after in person.about("executing")))
        finally:
            writer.transport.abort()

    tell(story, 1)


def test_a_stuck_client_delays_no_others_status(monkeypatch: pytest.MonkeyPatch):
    """However long it is waited for, before it is let go."""
    forward = clients_module.Client.forward

    async def forwarded(client: clients_module.Client, message: str | bytes) -> None:
        if client.client_id == "stuck":
            await asyncio.Event().wait()
        await forward(client, message)

    monkeypatch.setattr(clients_module.Client, "forward", forwarded)

    async def story(person: Person, engine: FakeEngine) -> None:
        for name in ("stuck", "other"):
            await person.listen(name)
            await until(lambda name=name: asyncio.sleep(0, name in engine.alive[1].sockets))
        for waiting in range(1, 4):
            await person.queue(LONG)
            status = {"status": {"exec_info": {"queue_remaining": waiting}}}
            told = {"type": "status", "data": status}
            await until(lambda told=told: asyncio.sleep(0, told in person.heard))

    tell(story, 1)


def test_many_clients(monkeypatch: pytest.MonkeyPatch):
    """Their connections with a worker leave some for its questions."""
    monkeypatch.setattr(clients_module, "LINK_SECONDS", 300)

    async def story(person: Person, engine: FakeEngine) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            asked = (session.ws_connect(f"{person.url}/ws?clientId={n}") for n in range(101))
            sockets = await asyncio.wait_for(asyncio.gather(*asked), 120)
            await asyncio.wait_for(person.queue(), 120)
            assert len(engine.all[0].sockets) > len(sockets), "and the farm's own"

    tell(story, 1)


def test_clearing_the_history_disturbs_nobody():
    async def story(person: Person, engine: FakeEngine) -> None:
        first = await person.queue()
        await idle(person)
        names = [await person.queue(0.02) for _ in range(20)]
        while (await person.get("/prompt"))["exec_info"]["queue_remaining"]:
            await person.post("/history", {"clear": True})
        runs = [name for fake in engine.all for name in fake.started]
        assert sorted(runs) == sorted([first, *names])
        await person.post("/history", {"clear": True})
        assert not any(fake.history for fake in engine.all), "workers forget what is done"

    tell(story)


def test_a_connection_that_breaks_doubles_nothing():
    async def story(person: Person, engine: FakeEngine) -> None:
        for fake in engine.all:
            fake.drops = fake.failures = 1
        names = [await person.queue(0.1) for _ in range(2)]
        await idle(person)
        assert sorted(name for fake in engine.all for name in fake.started) == sorted(names)
        assert len(engine.all) == 2, "none was ended for it"

    tell(story)


def test_asking_twice_gets_the_first_answer():
    async def story(person: Person, engine: FakeEngine) -> None:
        engine.all[0].check_seconds = 0.05
        wrong = {**asking_for("none.gguf"), "prompt_id": "same"}
        answers = await asyncio.gather(*(person.post("/prompt", wrong) for _ in range(2)))
        assert [status for status, _ in answers] == [400, 400]
        right = {**asking_for("shared.safetensors"), "prompt_id": "same"}
        answers = await asyncio.gather(*(person.post("/prompt", right) for _ in range(2)))
        assert [status for status, _ in answers] == [200, 200]
        await idle(person)
        assert engine.all[0].started == ["same"]

    tell(story, 1)


def test_a_start_that_fails_is_tried_again():
    async def story() -> None:
        async with running(1) as (person, engine):
            engine.broken = OSError("No space left.")
            await engine.alive[1].end()

            async def said() -> bool:
                return "No space" in (await person.get("/wanduet/farm"))["workers"][0]["state"]

            await until(said)
            engine.broken = None
            await ready(person, 1)

    in_own_loop(story())


def test_what_runs_ends_before_it_runs_again(monkeypatch: pytest.MonkeyPatch):
    """A worker that nobody can wait for may still be at work."""

    async def story(person: Person, engine: FakeEngine) -> None:
        first = engine.alive[1]
        name = await person.queue(0.3)
        await until(lambda: asyncio.sleep(0, name in first.running))
        lost, running_then = Farm.lost, []

        async def noting(farm: Farm, worker: Worker, how: str) -> None:
            running_then.extend(first.running)
            await lost(farm, worker, how)

        monkeypatch.setattr(Farm, "lost", noting)
        first.hide()
        await idle(person)
        assert (running_then, name in await person.get("/history")) == ([], True)
        assert [each.started for each in engine.all] == [[name], [name]]

    tell(story, 1)


def test_a_download_that_breaks_off():
    """The client sees that it has not got all."""

    async def story(person: Person, engine: FakeEngine) -> None:
        async with person.session.get(person.url + "/view?filename=broken") as answer:
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
        assert engine.all

    tell(story, 1)


def test_what_hello_answers():
    async def story(person: Person, engine: FakeEngine) -> None:
        names = {client: await person.queue(LONG, client_id=client) for client in "ab"}
        for client, name in {**names, "c": None}.items():
            hello = await person.get(f"/wanduet/hello?client_id={client}")
            assert hello.get("prompt_id") == name
        assert len(engine.all) == 2

    tell(story)


def test_a_process_that_the_system_cannot_end(monkeypatch: pytest.MonkeyPatch):
    """Such as one whose GPU's driver hangs: the farm goes on, and can end."""
    monkeypatch.setattr(local_engine, "END_SECONDS", 0.01)
    child: Any = SimpleNamespace(stdin=None, wait=asyncio.Event().wait, kill=lambda: None)
    in_own_loop(LocalProcess(child, 1, Path("a.log")).end())


def test_a_worker_that_does_not_tell_its_queue(monkeypatch: pytest.MonkeyPatch):
    """It is ended, though its connections stand, and its prompt runs on another."""
    monkeypatch.setattr(crew_module, "SURVEY_SECONDS", 0.05)

    async def story(person: Person, engine: FakeEngine) -> None:
        first = engine.alive[1]
        await person.queue()
        await idle(person)
        first.failures = 1 << 30
        name = await person.queue(LONG)
        monkeypatch.setattr(crew_module, "SILENT_SECONDS", 0.1)
        await until(lambda: asyncio.sleep(0, engine.alive[1] is not first))
        have_patience(monkeypatch)
        await until(lambda: asyncio.sleep(0, name in engine.alive[1].running))

    tell(story, 1)
