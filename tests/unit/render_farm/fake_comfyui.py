"""A ComfyUI that computes nothing, in this process, and an engine that starts and kills such.

It answers as far as the farm asks: prompts take as many seconds as they say.
"""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any

from aiohttp import WSMsgType, web

AT_ONCE = 0.01
"""For `shutdown_timeout`: to aiohttp, 0 is no limit, and a fresh connection would hold the end."""


LONG = 3600.0
"""Seconds of a prompt that somebody ends, however busy the machine is."""

STORY_SECONDS = 300.0
"""A story that has not ended by then hangs: its test fails, and the others go on."""


def in_own_loop(story: Coroutine[Any, Any, None]) -> None:
    """Runs a story in a thread of its own: tests of the browser keep a loop in this one."""
    ended: Future[BaseException | None] = Future()

    async def outcome() -> BaseException | None:
        return (await asyncio.gather(story, return_exceptions=True))[0]

    def run() -> None:
        ended.set_result(asyncio.run(outcome()))

    threading.Thread(target=run, daemon=True).start()
    error = ended.result(STORY_SECONDS)
    if error is not None:
        raise error


class FakeComfyUI:
    """One server with a queue of its own."""

    def __init__(self, slot: int, files: set[str]) -> None:
        self.slot = slot
        self.host, self.port, self.pid = "127.0.0.1", 0, slot
        self.files = files
        """What its prompts may name."""
        self.queue: list[list[Any]] = []
        self.running: dict[str, asyncio.Task[None]] = {}
        self.items: dict[str, list[Any]] = {}
        self.history: dict[str, Any] = {}
        self.sockets: dict[str, web.WebSocketResponse] = {}
        self.transports: list[Any] = []
        self.started: list[str] = []
        self.asked: list[str] = []
        """All paths that are not of prompts."""
        self.drops = 0
        """So many prompts arrive, but the connection breaks before the answer."""
        self.check_seconds = 0.0
        self.failures = 0
        """So often it fails where it is asked for its queue."""
        self._ended = asyncio.Event()
        self._waited = asyncio.Event()
        self._vanished = False

    async def start(self) -> None:
        app = web.Application(middlewares=[self._unless_vanished])
        app.router.add_get("/ws", self.listen)
        app.router.add_post("/prompt", self.prompt)
        app.router.add_get("/queue", self.get_queue)
        app.router.add_post("/queue", self.delete)
        app.router.add_get("/history/{prompt_id}", self.get_history)
        app.router.add_post("/interrupt", self.interrupt)
        app.router.add_get("/api/jobs", self.jobs)
        app.router.add_get("/api/jobs/{job_id}", self.none)
        app.router.add_get("/view", self.view)
        app.router.add_route("*", "/{path:.*}", self.other)
        self._runner = web.AppRunner(app, shutdown_timeout=AT_ONCE)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def wait(self) -> str:
        await self._waited.wait()
        if not self._ended.is_set():
            raise OSError("Nobody knows.")
        return "killed"

    def hide(self) -> None:
        """Goes on, but whoever waits for its end gets an error."""
        self._waited.set()

    async def end(self) -> None:
        """Ends in the middle of whatever it does."""
        if self._ended.is_set() or self._vanished:
            return
        self._ended.set()
        self._waited.set()
        for task in self.running.values():
            task.cancel()
        self.running.clear()
        for transport in self.transports:
            if not transport.is_closing():
                transport.abort()
        await self._runner.cleanup()

    def hang(self) -> None:
        """Stops like a process that got SIGSTOP: the system still accepts connections."""
        server: Any = self._runner.server
        sites: list[Any] = list(self._runner.sites)
        for listening in sites[0]._server.sockets:
            asyncio.get_running_loop().remove_reader(listening.fileno())
        for handler in server.connections:
            if handler.transport is not None:
                handler.transport.pause_reading()

    def vanish(self) -> None:
        """Is gone with its computer: nothing is closed, and nobody tells of its end."""
        self.hang()
        self._vanished = True

    @web.middleware
    async def _unless_vanished(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self._vanished:
            await asyncio.Event().wait()
        return await handler(request)

    async def come_back(self) -> None:
        """Ends after all."""
        self._vanished = False
        await self.end()

    async def listen(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        name = request.query.get("clientId", str(id(socket)))
        self.sockets[name] = socket
        self.transports.append(request.transport)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_json({"type": "feature_flags", "data": {"of": self.slot}})
        return socket

    async def prompt(self, request: web.Request) -> web.Response:
        body = await request.json()
        await asyncio.sleep(self.check_seconds)
        wanted = {v for node in body["prompt"].values() for v in node["inputs"].values()}
        missing = {each for each in wanted if isinstance(each, str)} - self.files
        if missing:
            error = {"message": f"no {missing.pop()}", "type": "x"}
            return web.json_response({"error": error, "node_errors": {}}, status=400)
        item = [body["number"], body["prompt_id"], body["prompt"], {"client_id": ""}, []]
        item[3]["client_id"] = body.get("client_id", "")
        self.queue.append(item)
        self._next()
        await self.tell("status", {})
        if self.drops:
            self.drops -= 1
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"prompt_id": body["prompt_id"], "node_errors": {}})

    def _next(self) -> None:
        if self.queue and not self.running and not self._ended.is_set():
            item = self.queue.pop(0)
            self.items[item[1]] = item
            self.running[item[1]] = asyncio.create_task(self.run(item))

    async def run(self, item: list[Any]) -> None:
        _, prompt_id, prompt, extra, _ = item
        about, client = {"prompt_id": prompt_id}, extra["client_id"]
        self.started.append(prompt_id)
        await self.tell("execution_start", about, client)
        ending = "execution_success"
        try:
            await asyncio.sleep(sum(node["inputs"].get("seconds", 0) for node in prompt.values()))
            await self.tell("progress", about, client)
        except asyncio.CancelledError:
            if self._ended.is_set():
                raise
            ending = "execution_interrupted"
        await self.tell(ending, about, client)
        status = {"status_str": "success", "messages": [[ending, about]]}
        outputs = {"by": self.slot}
        self.history[prompt_id] = {"prompt": item, "outputs": outputs, "status": status}
        del self.running[prompt_id]
        self._next()
        await self.tell("executing", {"node": None, **about}, client)
        await self.tell("status", {})

    async def tell(self, kind: str, data: dict[str, Any], client: str = "") -> None:
        for name, socket in list(self.sockets.items()):
            if client in ("", name) and not socket.closed and not self._ended.is_set():
                try:
                    await socket.send_json({"type": kind, "data": data})
                except ConnectionError:
                    self.sockets.pop(name, None)

    async def get_queue(self, _: web.Request) -> web.Response:
        if self.failures:
            self.failures -= 1
            return web.Response(status=500, text="Sorry.")
        running = [self.items[each] for each in self.running]
        return web.json_response({"queue_running": running, "queue_pending": self.queue})

    async def delete(self, request: web.Request) -> web.Response:
        ids = (await request.json())["delete"]
        self.queue = [item for item in self.queue if item[1] not in ids]
        return web.Response()

    async def get_history(self, request: web.Request) -> web.Response:
        prompt_id = request.match_info["prompt_id"]
        found = self.history.get(prompt_id)
        return web.json_response({prompt_id: found} if found else {})

    async def interrupt(self, request: web.Request) -> web.Response:
        task = self.running.get((await request.json())["prompt_id"])
        if task is not None:
            task.cancel()
        return web.Response()

    async def jobs(self, _: web.Request) -> web.Response:
        return web.json_response({"jobs": []})

    async def none(self, _: web.Request) -> web.Response:
        return web.Response(status=404)

    async def view(self, request: web.Request) -> web.StreamResponse:
        found = request.query.get("filename") == f"{self.slot}.png"
        if request.query.get("filename") == "half":
            response = web.StreamResponse()
            response.content_length = 100_000
            await response.prepare(request)
            await response.write(b"x" * 50_000)
            await asyncio.Event().wait()
        if request.query.get("filename") == "broken":
            response = web.StreamResponse()
            response.content_length = 100_000
            await response.prepare(request)
            await response.write(b"x" * 50_000)
            assert request.transport is not None
            request.transport.close()
            return response
        return web.Response(body=b"x" * 100_000 if found else b"", status=200 if found else 404)

    async def other(self, request: web.Request) -> web.Response:
        self.asked.append(request.path_qs)
        if request.path == "/history":
            change = await request.json()
            gone = list(self.history) if change.get("clear") else change["delete"]
            self.history = {key: self.history[key] for key in self.history if key not in gone}
        body = {"devices": [{"name": self.slot}], "origin": request.headers.get("Origin")}
        if request.path == "/wanduet/hello":
            body = {"prompt_id": next(iter(self.running), None)}
        return web.json_response(body)


class FakeEngine:
    """Starts fakes, and remembers all of them."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.files = {slot: {"shared.safetensors"} for slot in range(1, slots + 1)}
        self.alive: dict[int, FakeComfyUI] = {}
        self.all: list[FakeComfyUI] = []
        self.broken: Exception | None = None
        """What each start fails with."""

    async def start(self, slot: int) -> FakeComfyUI:
        if self.broken is not None:
            raise self.broken
        self.alive[slot] = FakeComfyUI(slot, self.files[slot])
        self.all.append(self.alive[slot])
        await self.alive[slot].start()
        return self.alive[slot]

    async def close(self) -> None:
        pass
