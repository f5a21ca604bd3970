"""One running ComfyUI, asked over its own HTTP interface."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from .engine import Process

ENDED = "This worker has ended."

ANSWER_SECONDS = 15.0
"""A ComfyUI that computes may be slow; one that says nothing for so long may be hung."""


class WorkerGoneError(Exception):
    """A worker does not answer: it has ended, or is about to."""


@dataclass(eq=False)
class Worker:
    """A ComfyUI that answers. Another one that takes over its slot is another object."""

    slot: int
    key: str
    """Unique for ever, such as "2.1": slot 2, the first one there."""
    process: Process
    session: aiohttp.ClientSession
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the process has ended."""
    reserved: bool = False
    """Whether a prompt is on its way there, or being checked."""
    holds: frozenset[str] = frozenset()
    """Model files of its last prompt, which ComfyUI keeps for the next."""
    served: int = 0
    asked: int = 0
    """How many prompts it has checked."""
    slow: bool = False
    """Whether it has missed the time for an answer, and has given none since."""
    has_jobs: bool = False
    """Whether it is a ComfyUI with `/api/jobs`."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by who puts a prompt in or takes it out."""

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return not self.ended.is_set()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.process.host}:{self.process.port}"

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Returns an answer's status and its JSON, None if it is of another kind.

        Raises:
            WorkerGoneError: if there is no answer within ANSWER_SECONDS. Nobody knows then
                whether it has got the question.
        """
        asked = asyncio.ensure_future(self._ask(method, path, body))
        ended = asyncio.ensure_future(self.ended.wait())
        first, limit = asyncio.FIRST_COMPLETED, ANSWER_SECONDS
        try:
            await asyncio.wait({asked, ended}, timeout=limit, return_when=first)
            if not asked.done() and not self.alive:
                raise WorkerGoneError(ENDED)
            self.slow = not asked.done()
            if self.slow:
                raise WorkerGoneError(f"It has not answered for {limit:.0f} s.")
            return asked.result()
        except (aiohttp.ClientError, OSError) as error:
            raise WorkerGoneError(str(error)) from error
        finally:
            asked.cancel()
            ended.cancel()

    async def _ask(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        async with self.session.request(method, self.url + path, json=body) as answer:
            is_json = answer.content_type == "application/json"
            return answer.status, (await answer.json() if is_json else None)

    @asynccontextmanager
    async def socket(self, limit: float, **options: Any) -> AsyncIterator[Any]:
        """Connects with its WebSocket.

        Args:
            limit: seconds for that; the system of a process that is stopped still accepts.
            options: more of aiohttp's.

        Raises:
            TimeoutError, aiohttp.ClientError, OSError: if it does not answer.
        """
        work = self.session.ws_connect(f"{self.url}/ws", max_msg_size=0, **options)
        connecting = asyncio.ensure_future(work)
        try:
            await asyncio.wait({connecting}, timeout=limit)
            if not connecting.done():
                raise asyncio.TimeoutError
            yield connecting.result()
        finally:
            connecting.cancel()
            if connecting.done() and not connecting.cancelled() and not connecting.exception():
                await connecting.result().close()

    async def post_prompt(self, body: dict[str, Any]) -> tuple[int, Any]:
        """Queues a prompt there, and returns status and answer."""
        return await self.ask("POST", "/prompt", body)

    async def queued(self) -> dict[str, bool]:
        """Returns the ids in its queue; True for those that run.

        Raises:
            WorkerGoneError: if it does not say.
        """
        status, queue = await self.ask("GET", "/queue")
        if not isinstance(queue, dict):
            raise WorkerGoneError(f"It has answered {status} in the place of its queue.")
        running = {item[1]: True for item in queue["queue_running"]}
        return {item[1]: False for item in queue["queue_pending"]} | running

    async def take_back(self, prompt_id: str) -> bool:
        """Takes a prompt out of its queue again. Returns False if it has been started already."""
        await self.ask("POST", "/queue", {"delete": [prompt_id]})
        return prompt_id not in await self.queued() and await self.record(prompt_id) is None

    async def record(self, prompt_id: str) -> dict[str, Any] | None:
        """Returns a prompt's record, None while it has none."""
        _, history = await self.ask("GET", f"/history/{prompt_id}")
        return (history or {}).get(prompt_id)

    async def job(self, prompt_id: str) -> dict[str, Any] | None:
        """Returns ComfyUI's other description of a prompt, where it has one."""
        if not self.has_jobs:
            return None
        status, job = await self.ask("GET", f"/api/jobs/{prompt_id}")
        return job if status == 200 else None

    async def interrupt(self, prompt_id: str) -> None:
        """Stops a prompt if it runs there."""
        await self.ask("POST", "/interrupt", {"prompt_id": prompt_id})

    async def forget(self, prompt_ids: list[str]) -> None:
        """Drops records of prompts that have ended."""
        await self.ask("POST", "/history", {"delete": prompt_ids})
