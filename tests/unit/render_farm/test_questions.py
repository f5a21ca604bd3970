"""Whatever clients send, it is answered in words, and the farm goes on."""

import asyncio
import time
from typing import Any

import pytest

from render_farm import crew as crew_module
from render_farm import questions
from render_farm.front import Front
from render_farm.proxy import TEMPORARY, original_in_temp

from .fake_comfyui import FakeEngine
from .test_farm import Person, idle, tell, until

NODE = {"1": {"inputs": {"seconds": 0}}}

WRONG_QUERIES = [
    *(f"/history?{name}={value}" for name in ("max_items", "offset") for value in ("x", "", "1.5")),
    *(f"/api/jobs?{name}=x" for name in ("limit", "offset", "sort_by", "sort_order", "status")),
    "/api/jobs?limit=0",
]

JUNK: list[Any] = [5, "x", [1], {"a": 1}, [{}], [None], 1e400, "\ud800"]

WRONG_BODIES: dict[str, list[Any]] = {
    "/prompt": [
        {},
        {"prompt": None},
        *({"prompt": junk} for junk in (*JUNK[:3], {"1": 5}, {"1": {"inputs": []}})),
        {"prompt": {"1": {"class_type": ["x"]}}},
        *({"prompt": NODE, "prompt_id": junk} for junk in ([], {}, "a/b", "..", "a?", "\ud800")),
        *({"prompt": NODE, "client_id": junk} for junk in (True, ["a"], {})),
        *({"prompt": NODE, "extra_data": junk} for junk in (5, "x", [1])),
        *({"prompt": NODE, "partial_execution_targets": junk} for junk in (5, "1", [{}])),
        *({"prompt": NODE, "number": junk} for junk in ("x", [], None, 1e400)),
        {"prompt": NODE, "front": "no"},
    ],
    "/queue": [{"delete": 5}, {"delete": "x"}, {"delete": [{}]}, {"clear": "false"}],
    "/history": [{"delete": 5}, {"delete": [[]]}, {"clear": [1]}],
    "/interrupt": [{"prompt_id": []}, {"client_id": {}}],
    "/free": [{"free_memory": "x"}, {"unload_models": {}}],
    "/api/jobs/cancel": [{"job_ids": 5}, {"job_ids": [{}]}, {"job_ids": "x"}],
}

NO_NUMBER = [
    b'{"prompt": {"1": {"inputs": {"seconds": 0, "x": %s}}}}' % n for n in (b"NaN", b"-1e999")
]
"""Nobody could read the history with it: browsers stop at it."""

NO_OBJECT = [*NO_NUMBER, b"{", b"[1]", b"5", b"\xff\xfe", b"[" * 100_000]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(crew_module, "POLL_SECONDS", 0.01)


async def answer_of(person: Person, method: str, path: str, **what: Any) -> tuple[int, str]:
    async with person.session.request(method, person.url + path, **what) as answer:
        return answer.status, await answer.text()


def test_what_cannot_be_used_is_refused_in_words():
    async def story(person: Person, engine: FakeEngine) -> None:
        questions = [("GET", path, {}) for path in WRONG_QUERIES]
        for path, bodies in WRONG_BODIES.items():
            questions += [("POST", path, {"json": body}) for body in bodies]
            raw = NO_OBJECT[3:5] if path == "/interrupt" else NO_OBJECT
            questions += [("POST", path, {"data": body}) for body in raw]
        for method, path, what in questions:
            status, text = await answer_of(person, method, path, **what)
            assert (status, ". Got " in text, ", need " in text) == (400, True, True), (path, what)
        assert await person.get("/queue") == {"queue_running": [], "queue_pending": []}
        assert await person.get("/history") == {}
        assert not engine.alive[1].started

    tell(story, 1)


def test_no_route_trips():
    """Every route that the farm answers itself, with everything that is somewhere else."""

    async def story(person: Person, engine: FakeEngine) -> None:
        queries = ["", "?" + "&".join(f"{n}=%ff" for n in ("clientId", "client_id", "filename"))]
        for method, path, _ in Front.routes(Front.__new__(Front)):
            if path == "/ws":
                continue
            path = path.format(prompt_id="%2e%2e%2fx", job_id="x")
            asked = [(path + query, {}) for query in queries]
            if method == "POST":
                asked += [(path, {"json": {n: junk}}) for n in ("delete", "x") for junk in JUNK]
                asked += [(path, {"data": b"x", "headers": {"Content-Type": "a/b; charset=x"}})]
                asked += [(path, {"data": b"x", "headers": {"Content-Encoding": "gzip"}})]
            for where, what in asked:
                status, text = await answer_of(person, method, where, **what)
                assert status < 500, (where, what, text)
        extra = {"extra_pnginfo": [{"workflow": 1}]}
        body = {"prompt": NODE, "extra_data": extra, "number": "5", "prompt_id": "last"}
        assert (await person.post("/prompt", body))[0] == 200
        await idle(person)
        history = await person.get("/history")
        assert [record["outputs"] for record in history.values()] == [{"by": 1}]
        assert engine.alive[1].started == list(history) == ["last"]
        await person.get("/history?max_items=-1&offset=0")

    tell(story, 1)


def test_addresses_that_are_none():
    """Of whom nobody can say is refused; a whole address is its path, as everywhere."""

    async def story(person: Person, engine: FakeEngine) -> None:
        port = int(person.url.rpartition(":")[2])
        for target, headers, expected in (
            ("/x", "Host: [\r\n", 403),
            ("/x", "Host: a\r\nOrigin: http://[\r\n", 403),
            ("http://other.example:1/x?y=%2f", "Host: a\r\n", 200),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {target} HTTP/1.1\r\n{headers}\r\n".encode())
            status = (await asyncio.wait_for(reader.readline(), 60)).split()[1]
            assert int(status) == expected, (target, headers)
            writer.close()
        assert engine.alive[1].asked[-1] == "/x?y=%2f"

    tell(story, 1)


def test_a_question_that_is_too_long(monkeypatch: pytest.MonkeyPatch):
    """It would be read for many seconds, in which nobody gets an answer. Files may be longer."""
    monkeypatch.setattr(questions, "MOST_JSON", 1 << 20)

    async def story(person: Person, engine: FakeEngine) -> None:
        for path in ("/prompt", "/interrupt", "/free"):
            status, text = await answer_of(person, "POST", path, json={"x": "y" * (1 << 20)})
            assert (status, "need at most 1 MiB" in text) == (400, True)
        assert (await answer_of(person, "POST", "/upload/image", data=b"x" * (2 << 20)))[0] == 200
        assert engine.alive[1].asked[-1] == "/upload/image"
        port = int(person.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /prompt HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n")
        writer.write(b"x" * (2 << 20))
        assert b" 400 " in await asyncio.wait_for(reader.readline(), 60)  # before the rest
        writer.close()

    tell(story, 1)


def test_a_long_body_takes_no_time():
    """The farm stands still while it looks for what an upload is of."""
    for name in (b"type", b"original_ref"):
        body = b'name="%s"\r\n' % name * 40_000
        before = time.thread_time()
        assert TEMPORARY.search(body) is original_in_temp(body) is None
        assert time.thread_time() - before < 5


def test_numbers_are_ids_and_a_node_may_lack_inputs():
    async def story(person: Person, engine: FakeEngine) -> None:
        listening = await person.listen("7")
        for name, bare in enumerate(({}, {"inputs": None})):
            nodes = {**NODE, "2": {**bare, "class_type": "x"}}
            body = {"prompt": nodes, "prompt_id": name, "client_id": 7}
            status, answer = await person.post("/prompt", body)
            assert (status, answer.get("prompt_id")) == (200, str(name))
        await idle(person)
        history = await person.get("/history")
        assert [record["prompt"][2]["2"]["inputs"] for record in history.values()] == [{}, {}]
        await until(lambda: asyncio.sleep(0, person.about("execution_success") == ["0", "1"]))
        assert (await person.post("/history", {"delete": [0]}))[0] == 200
        assert list(await person.get("/history")) == ["1"]
        assert engine.alive[1].started == ["0", "1"]
        listening.cancel()

    tell(story, 1)
