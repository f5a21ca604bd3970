"""The whole farm over real sockets, with workers that compute nothing and die on purpose."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from render_farm import crew as crew_module
from render_farm.engine import FarmError
from render_farm.launch import application

from .fake_comfyui import AT_ONCE, LONG, FakeEngine, in_own_loop


class Person:
    """A client of the farm."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session, self.url = session, url
        self.heard: list[dict[str, Any]] = []

    async def get(self, path: str, **headers: str) -> Any:
        async with self.session.get(self.url + path, headers=headers) as answer:
            assert answer.status == 200, answer.status
            return await answer.json()

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        async with self.session.post(self.url + path, json=body) as answer:
            is_json = answer.content_type == "application/json"
            return answer.status, await answer.json() if is_json else None

    async def queue(self, seconds: float = 0.01, model: str = "", **more: Any) -> str:
        inputs = {"seconds": seconds} | ({"model": model} if model else {})
        status, answer = await self.post("/prompt", {"prompt": {"1": {"inputs": inputs}}, **more})
        assert status == 200, answer
        return answer["prompt_id"]

    async def listen(self, name: str) -> asyncio.Task[None]:
        """Begins to hear what is sent to a client, after saying what it understands."""
        socket = await self.session.ws_connect(f"{self.url}/ws?clientId={name}")
        await socket.send_str('{"type": "feature_flags", "data": {}}')

        async def hear() -> None:
            async for message in socket:
                self.heard.append(message.json())

        return asyncio.create_task(hear())

    def about(self, kind: str) -> list[str]:
        return [each["data"]["prompt_id"] for each in self.heard if each["type"] == kind]


Story = Callable[[Person, FakeEngine], Awaitable[None]]


@asynccontextmanager
async def running(slots: int) -> AsyncIterator[tuple[Person, FakeEngine]]:
    engine = FakeEngine(slots)
    runner = web.AppRunner(await application(engine, mark_files=True), shutdown_timeout=AT_ONCE)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession() as session:
        person = Person(session, f"http://127.0.0.1:{port}")
        try:
            await ready(person, slots)
            yield person, engine
        finally:
            await runner.cleanup()


async def until(found: Callable[[], Awaitable[Any]]) -> Any:
    deadline = time.monotonic() + 300
    while not (answer := await found()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
    return answer


async def ready_workers(person: Person) -> int:
    workers = (await person.get("/wanduet/farm"))["workers"]
    return sum(worker["state"] == "ready" for worker in workers)


async def ready(person: Person, slots: int) -> None:
    async def all_ready() -> bool:
        return await ready_workers(person) == slots

    await until(all_ready)


async def idle(person: Person) -> None:
    async def nothing_left() -> bool:
        return not (await person.get("/prompt"))["exec_info"]["queue_remaining"]

    await until(nothing_left)


def tell(story: Story, slots: int = 2) -> None:
    """Runs a story with a farm of its own."""

    async def run() -> None:
        async with running(slots) as (person, engine):
            await story(person, engine)

    in_own_loop(run())


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(crew_module, "LONGEST_PAUSE", 0.02)
    monkeypatch.setattr(crew_module, "POLL_SECONDS", 0.01)


@pytest.mark.parametrize("seed", range(3))
def test_none_lost_none_doubled(seed: int):
    """Workers are killed at random moments. What a client is told to be done is run no more."""

    async def story(person: Person, engine: FakeEngine) -> None:
        dice = random.Random(seed)
        listening = await person.listen("me")
        names = [await person.queue(dice.random() / 50, client_id="me") for _ in range(20)]
        for _ in range(6):
            await asyncio.sleep(dice.random() / 15)
            await engine.alive[dice.choice([1, 2, 3])].end()
        await until(lambda: ready_workers(person))
        names += [await person.queue(client_id="me") for _ in range(20)]
        await idle(person)
        await until(lambda: asyncio.sleep(0, len(person.about("executing")) >= len(names)))
        history = await person.get("/history")
        assert sorted(history) == sorted(names)
        ended = [*person.about("execution_success"), *person.about("execution_error")]
        assert sorted(ended) == sorted(names)
        runs = [name for fake in engine.all for name in fake.started]
        assert max(runs.count(name) for name in names) <= 2
        assert len(runs) <= len(names) + 6
        for name in names:
            seen = [each for each in person.heard if each["data"].get("prompt_id") == name]
            assert seen[-1] == {"type": "executing", "data": {"node": None, "prompt_id": name}}
        listening.cancel()

    tell(story, 3)


def test_each_client_hears_of_its_own():
    async def story(person: Person, engine: FakeEngine) -> None:
        other = Person(person.session, person.url)
        tasks = [await person.listen("a"), await other.listen("b")]
        await person.get("/wanduet/hello?client_id=a")
        mine = [await person.queue(client_id="a") for _ in range(5)]
        yours = [await other.queue(client_id="b") for _ in range(5)]
        await engine.alive[1].end()
        await idle(person)
        await ready(person, 2)
        late = await person.queue(client_id="a")
        await until(lambda: asyncio.sleep(0, late in person.about("executing")))
        await until(lambda: asyncio.sleep(0, len(other.about("executing")) == 5))
        assert set(person.about("progress")) == {*mine, late}
        assert set(other.about("progress")) == set(yours)
        assert [each["type"] for each in person.heard].count("feature_flags") == 1
        assert "/wanduet/hello?client_id=a" in engine.alive[1].asked, "later ones are told, too"
        for task in tasks:
            task.cancel()

    tell(story)


def test_line_and_cancelling():
    async def story(person: Person, engine: FakeEngine) -> None:
        running = [await person.queue(LONG), await person.queue(LONG, client_id="a")]
        waiting = [await person.queue(model="shared.safetensors") for _ in range(2)]
        first = await person.queue(front=True)
        queue = await person.get("/queue")
        assert [item[1] for item in queue["queue_pending"]] == [first, *waiting]
        assert {item[1] for item in queue["queue_running"]} == set(running)
        assert not any(fake.queue for fake in engine.all), "what waits is not with a worker"
        status, answer = await person.post("/prompt", {"prompt": {"1": {"inputs": {"m": "x"}}}})
        assert (status, answer["error"]["message"]) == (400, "no x")
        assert (await person.post("/prompt", {"prompt": {}, "prompt_id": waiting[0]}))[0] == 200
        await person.post("/queue", {"delete": [waiting[0]]})
        await person.post("/interrupt", {"client_id": "a"})

        async def only_the_other() -> bool:
            items = (await person.get("/queue"))["queue_running"]
            return [item[1] for item in items] == [running[0]]

        await until(only_the_other)
        await person.post("/interrupt", {})
        await idle(person)
        history = await person.get("/history")
        assert set(history) == {*running, waiting[1], first}
        kinds = [history[each]["status"]["messages"][0][0] for each in running]
        assert kinds == ["execution_interrupted"] * 2
        await person.post("/history", {"delete": [first]})
        assert first not in await person.get("/api/history?max_items=9")

    tell(story)


def test_a_prompt_that_ends_workers_is_given_up():
    async def story(person: Person, engine: FakeEngine) -> None:
        listening = await person.listen("me")
        name = await person.queue(LONG, client_id="me")
        for _ in range(2):
            found = await until(
                lambda: asyncio.sleep(0, [w for w in engine.alive.values() if name in w.running])
            )
            await found[0].end()
        await until(lambda: asyncio.sleep(0, name in person.about("execution_error")))
        record = (await person.get(f"/history/{name}"))[name]
        ((kind, error),) = record["status"]["messages"]
        assert kind == "execution_error"
        assert error["exception_message"].startswith("The prompt ended two workers.")
        assert {fake.slot for fake in engine.all if name in fake.started} == {1, 2}
        listening.cancel()

    tell(story)


def test_what_any_worker_answers():
    async def story(person: Person, engine: FakeEngine) -> None:
        assert (await person.get("/object_info?x=1"))["devices"]
        assert [d["name"] for d in (await person.get("/system_stats"))["devices"]] == [1, 2]
        async with person.session.get(person.url + "/view?filename=2.png") as answer:
            assert len(await answer.read()) == 100_000
        async with person.session.get(person.url + "/view?filename=3.png") as answer:
            assert answer.status == 404
        form = aiohttp.FormData({"type": "temp"})
        form.add_field("image", b"png", filename="a.png")
        async with person.session.post(person.url + "/upload/image", data=form) as answer:
            assert answer.status == 200
        assert all("/upload/image" in fake.asked for fake in engine.all)
        for place, path in (("2.png", "/upload/mask"), ("3.png", "/upload/mask?shared=1")):
            kind = "input" if "shared" in path else "temp"
            form = aiohttp.FormData(
                {"original_ref": f'{{"filename": "{place}", "type": "{kind}"}}'}
            )
            form.add_field("image", b"png", filename="a.png")
            async with person.session.post(person.url + path, data=form) as answer:
                assert answer.status == 200
        said = [[path for path in fake.asked if "mask" in path] for fake in engine.all]
        assert said == [["/upload/mask?shared=1"], ["/upload/mask"]], "whoever has the file"
        await person.post("/free", {"free_memory": True})
        assert all("/free" in fake.asked for fake in engine.all)
        # A page of another site is refused, as by ComfyUI; our own is passed on without its name.
        assert (await person.get("/x", Origin=person.url))["origin"] is None
        foreign = {"Origin": "http://other.example"}
        for headers, status in (
            (foreign, 403),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
            ({"Origin": "http://127.0.0.1:1"}, 403),
            ({"Origin": "http://127.0.0.1"}, 200),  # some browsers leave the port out
            ({**foreign, "Host": "192.0.2.1:80"}, 200),  # a proxy's business, as with ComfyUI
        ):
            async with person.session.get(person.url + "/queue", headers=headers) as answer:
                assert answer.status == status, headers

    tell(story)


def test_no_worker():
    async def story(person: Person, engine: FakeEngine) -> None:
        engine.broken = FarmError("No GPU.")
        for fake in list(engine.alive.values()):
            await fake.end()
        await ready(person, 0)
        status, answer = await person.post("/prompt", {"prompt": {}})
        assert (status, answer["error"]["type"]) == (503, "no_worker")
        async with person.session.get(person.url + "/object_info") as answer:
            assert answer.status == 503
        assert await person.get("/history") == {}
        engine.broken = None
        await ready(person, 2)
        await person.queue()

    tell(story)
