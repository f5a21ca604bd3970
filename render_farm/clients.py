"""Who listens: one WebSocket for each client, and behind it one to each worker.

A worker sends a client's messages to the connection that has the client's id, as ComfyUI does, so
each client gets what its own prompts send, binary previews too, and nothing of others.
"""

import asyncio
import json
import logging
import math
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from aiohttp import web

from .waiting import end_tasks, within
from .worker import Worker, WorkerGoneError

logger = logging.getLogger(__name__)

LINK_SECONDS = 10.0
"""How long a new client is kept waiting for workers that do not answer."""

RETRY_SECONDS = 1.0

SEND_SECONDS = 5.0
"""Between looks at what a client has left to take. One that has taken nothing from one look to the
next is let go: others wait for what is sent to it."""

STATUS = "status"
"""Among the keys of a client's tasks, which else are of workers."""

MOST_GREETED = 256
"""Clients that new workers are told of: those that are connected, and some that never were."""

ENDINGS = ("execution_success", "execution_error", "execution_interrupted")

Finished = Callable[[Worker, str, str], Awaitable[bool]]
"""Waits until a prompt that a worker calls ended, in a message of a kind, has its record. False:
the worker died before."""


class Client:
    """One connection to the farm."""

    def __init__(self, client_id: str, transport: asyncio.BaseTransport | None = None) -> None:
        self.client_id = client_id
        self._transport = transport
        self.socket = web.WebSocketResponse()
        self.links: dict[str, Any] = {}
        """aiohttp's connections by the worker's key."""
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.first = ""
        """The first message, in which editors say what they understand."""
        self.answered = False
        """Whether a worker's answer to it was passed on."""
        self._latest = ""

    async def send(self, kind: str, data: dict[str, Any]) -> None:
        """Sends a message, unless the client has gone."""
        await self.forward(json.dumps({"type": kind, "data": data}))

    async def forward(self, message: str | bytes) -> None:
        """Sends a worker's message, unless the client has gone."""
        if not self.socket.prepared or self.socket.closed:
            return
        try:
            await self._send(message)
        except (ConnectionError, aiohttp.ClientError) as error:
            logger.debug("A client has gone: %s", error)

    async def _send(self, message: str | bytes) -> None:
        """Sends a message, however long that takes, as long as the client takes some of it.

        It is sent even if who waits for that is cancelled: it counts as told.
        """
        is_bytes = isinstance(message, bytes)
        send: Any = self.socket.send_bytes if is_bytes else self.socket.send_str
        sent = asyncio.ensure_future(send(message))
        sent.add_done_callback(lambda task: task.cancelled() or task.exception())
        left = math.inf
        while not (await asyncio.wait({sent}, timeout=SEND_SECONDS))[0]:
            before, left = left, self._left()
            if left >= before:
                sent.cancel()
                self._let_go()
                return
        sent.result()

    def tell_latest(self, message: str) -> None:
        """Sends a message as soon as it can be sent, unless there is a later one by then."""
        self._latest = message
        task = self.tasks.get(STATUS)
        if task is None or task.done():
            self.tasks[STATUS] = asyncio.create_task(self._tell_latest())

    async def _tell_latest(self) -> None:
        while self._latest:
            message, self._latest = self._latest, ""
            await self.forward(message)

    async def close(self) -> None:
        """Ends the connection."""
        if not self.socket.prepared or self.socket.closed:
            return
        try:
            await within(SEND_SECONDS, self.socket.close())
        except asyncio.TimeoutError:
            self._let_go()

    def _left(self) -> int:
        """Returns the bytes that wait until the client takes them."""
        if isinstance(self._transport, asyncio.WriteTransport):
            return self._transport.get_write_buffer_size()
        return 0

    def _let_go(self) -> None:
        logger.warning("A client takes no messages. Its connection is ended.")
        if isinstance(self._transport, asyncio.WriteTransport):
            self._transport.abort()


class Clients:
    """All connections."""

    def __init__(self, finished: Finished) -> None:
        self._finished = finished
        self._workers: list[Worker] = []
        self._clients: dict[str, Client] = {}
        self._greeted: dict[str, str] = {}
        """Path and question with which clients have told workers what they show."""

    async def serve(
        self, request: web.Request, status: Callable[[], dict[str, Any]]
    ) -> web.StreamResponse:
        """Answers `/ws`: passes messages on until the client goes.

        Args:
            request: the connection.
            status: returns what ComfyUI calls the status of the queue.
        """
        name = request.query.get("clientId") or uuid.uuid4().hex
        client = Client(name, request.transport)
        before = self._clients.pop(client.client_id, None)
        if before is not None:
            await self._close(before)
        self._clients[client.client_id] = client
        try:
            # First the workers: a client may queue a prompt once its connection stands.
            await asyncio.gather(*(self._connect(client, worker) for worker in self._workers))
            await client.socket.prepare(request)
            await client.send("status", {"status": status(), "sid": client.client_id})
            async for message in client.socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    client.first = client.first or message.data
                    for link in list(client.links.values()):
                        await _say(link, message.data)
        finally:
            if self._clients.get(client.client_id) is client:
                del self._clients[client.client_id]
                self._greeted.pop(client.client_id, None)
            await self._close(client)
        return client.socket

    async def add_worker(self, worker: Worker) -> None:
        """Connects all clients with a worker that has begun to answer."""
        for path in list(self._greeted.values()):
            try:
                await worker.ask("GET", path)
            except WorkerGoneError as error:
                logger.debug("Worker %d was not told of a client: %s", worker.slot, error)
                break
        self._workers.append(worker)
        await asyncio.gather(*(self._connect(c, worker) for c in list(self._clients.values())))

    def remove_worker(self, worker: Worker) -> None:
        """Lets go of a worker that has ended."""
        if worker in self._workers:
            self._workers.remove(worker)
        for client in self._clients.values():
            client.links.pop(worker.key, None)
            task = client.tasks.pop(worker.key, None)
            if task is not None:
                task.cancel()

    def greeted(self, client_id: str, path: str) -> None:
        """Remembers what workers that come later have to be told of a client."""
        self._greeted.pop(client_id, None)
        self._greeted[client_id] = path
        if len(self._greeted) > MOST_GREETED:
            del self._greeted[next(iter(self._greeted))]

    async def send(self, client_id: str, kind: str, data: dict[str, Any]) -> None:
        """Sends a message to one client, if it is there."""
        client = self._clients.get(client_id)
        if client is not None:
            await client.send(kind, data)

    def announce(self, status: dict[str, Any]) -> None:
        """Tells all clients what ComfyUI calls the status of the queue; nobody waits for them."""
        message = json.dumps({"type": "status", "data": {"status": status}})
        for client in self._clients.values():
            client.tell_latest(message)

    async def close(self) -> None:
        """Ends all connections."""
        await asyncio.gather(*(self._close(client) for client in list(self._clients.values())))

    async def _connect(self, client: Client, worker: Worker) -> None:
        """Starts to listen for a client at a worker, and waits until that stands."""
        if self._clients.get(client.client_id) is not client:
            return  # it has gone meanwhile
        ready = asyncio.Event()
        task = asyncio.create_task(self._listen(client, worker, ready))
        client.tasks[worker.key] = task
        if worker.slow:
            return
        try:
            await within(LINK_SECONDS, ready.wait())
        except asyncio.TimeoutError:
            logger.warning("Worker %d is slow: a client's connection stands late.", worker.slot)

    async def _listen(self, client: Client, worker: Worker, ready: asyncio.Event) -> None:
        """Passes on what a worker sends to a client, as long as both are there."""
        name = client.client_id
        while worker.alive:
            try:
                async with worker.socket(LINK_SECONDS, params={"clientId": name}) as link:
                    if client.first:
                        await link.send_str(client.first)
                    client.links[worker.key] = link
                    ready.set()
                    async for message in link:
                        await self._pass_on(client, worker, message)
            except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
                logger.debug("No connection with worker %d: %s", worker.slot, error)
            client.links.pop(worker.key, None)
            if not worker.alive:
                break
            await asyncio.sleep(RETRY_SECONDS)
        ready.set()

    async def _pass_on(self, client: Client, worker: Worker, message: Any) -> None:
        if message.type is aiohttp.WSMsgType.BINARY:
            await client.forward(message.data)
        if message.type is not aiohttp.WSMsgType.TEXT:
            return
        content = json.loads(message.data)
        kind, data = content.get("type"), content.get("data") or {}
        if kind == "status":
            return  # of this worker's queue alone
        if kind == "feature_flags":
            if client.answered:
                return
            client.answered = True
        prompt_id = data.get("prompt_id") if isinstance(data, dict) else None
        ended = kind in ENDINGS or (kind == "executing" and data.get("node") is None)
        if ended and prompt_id and not await self._finished(worker, prompt_id, str(kind)):
            return  # the worker died before anybody could have the result: it is made again
        await client.forward(message.data)

    async def _close(self, client: Client) -> None:
        await end_tasks(client.tasks.values())
        await client.close()


async def _say(link: Any, text: str) -> None:
    try:
        await link.send_str(text)
    except (ConnectionError, aiohttp.ClientError) as error:
        logger.debug("A worker did not listen: %s", error)
