"""Passes a request on to a worker, and its answer back, piece by piece."""

import asyncio
import json
import logging
import re
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, TypeVar

import aiohttp
from aiohttp import web
from yarl import URL

from .waiting import end_tasks
from .worker import ENDED, Worker

logger = logging.getLogger(__name__)

NOT_PASSED_ON = {
    *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer"),
    *("transfer-encoding", "upgrade", "host", "content-length"),
    # The farm has compared it with its own address; a worker has another one.
    *("origin", "referer", "sec-fetch-site"),
}

PIECE = 1 << 18
"""Bytes."""

MISSING = 404

MORE_HEADERS = rb"(?:[^\r\n]+\r\n){0,8}\r\n"
"""Of a part, behind its name, and their end. Without a limit, a body that only looks like many
parts would be read anew for each."""

TEMPORARY = re.compile(rb'name="type"\r\n' + MORE_HEADERS + rb"temp\r\n")
"""In an upload: a file for the folder that each worker has of its own."""

ORIGINAL = re.compile(rb'name="original_ref"\r\n' + MORE_HEADERS + rb"([^\r\n]*)\r\n")
"""In an uploaded mask: what it is the mask of."""


T = TypeVar("T")


class Proxy:
    """Asks workers on behalf of clients."""

    def __init__(self) -> None:
        """To be made inside of an event loop."""
        # Bodies stay as they are, compressed or not; cookies are the client's.
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            connector=aiohttp.TCPConnector(limit=0),  # clients that read slowly keep no others out
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
        )

    async def close(self) -> None:
        """Ends all connections."""
        await self._session.close()

    async def forward(
        self, request: web.Request, workers: Iterable[Worker], *, until_found: bool = False
    ) -> web.StreamResponse:
        """Answers with what the first worker says that answers at all.

        Args:
            request: of a client.
            workers: in the order in which they are asked.
            until_found: whether to ask the next one for what a worker does not have.
        """
        await request.read()
        left = list(workers)
        begun: list[web.StreamResponse] = []
        """What the client has got a part of: it gets no other answer."""
        while left:
            worker = left.pop(0)
            try:
                asked = self._ask(worker, request, begun, only_found=until_found and bool(left))
                answer = await while_alive(worker, asked)
            except aiohttp.ClientConnectorError:
                continue  # it has got nothing
            except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
                return begun[0] if begun else _ended(error)
            if answer is not None:
                return answer
        return web.Response(status=503, text="No ComfyUI is ready. Try again in a minute.")

    async def _ask(
        self,
        worker: Worker,
        request: web.Request,
        begun: list[web.StreamResponse],
        *,
        only_found: bool,
    ) -> web.StreamResponse | None:
        """Answers with what a worker says, or with nothing where it does not have what is asked."""
        async with self._session.request(
            request.method,
            _url(worker, request),
            headers=_passed_on(request.headers),
            data=await request.read() or None,
            allow_redirects=False,
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Content-Type"),
        ) as answer:
            if only_found and answer.status == MISSING:
                return None
            return await _stream(request, answer, begun)

    async def _tell(self, worker: Worker, request: web.Request) -> None:
        """Passes a request on, and waits for the answer."""
        async with self._session.request(
            request.method,
            _url(worker, request),
            headers=_passed_on(request.headers),
            data=await request.read(),
        ) as answer:
            await answer.read()

    async def to_all(self, request: web.Request, workers: Iterable[Worker]) -> web.StreamResponse:
        """Tells all workers, and answers with what the last one says."""
        everyone = list(workers)
        for worker in everyone[:-1]:
            try:
                await while_alive(worker, self._tell(worker, request))
            except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
                return _ended(error)
        return await self.forward(request, everyone[-1:])


def _passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in headers.items() if name.lower() not in NOT_PASSED_ON}


async def _stream(
    request: web.Request, answer: aiohttp.ClientResponse, begun: list[web.StreamResponse]
) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=_passed_on(answer.headers))
    length = answer.headers.get("Content-Length")
    if length is not None:
        response.content_length = int(length)
    try:
        await response.prepare(request)
        begun.append(response)
        async for piece in answer.content.iter_chunked(PIECE):
            await response.write(piece)
        await response.write_eof()
    except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
        logger.warning("A file or an answer broke off. Got '%s'.", error)
        _break_off(request)
    except asyncio.CancelledError:
        _break_off(request)
        raise
    return response


def _break_off(request: web.Request) -> None:
    """Ends a connection, so that the client does not take what it has got for the whole."""
    if request.transport is not None:
        request.transport.abort()


async def while_alive(worker: Worker, work: Coroutine[Any, Any, T]) -> T:
    """Waits for a worker's answer as long as it lives: one whose computer is gone gives none.

    Raises:
        ClientConnectionError: if it ends before.
    """
    asked = asyncio.ensure_future(work)
    ended = asyncio.ensure_future(worker.ended.wait())
    try:
        await asyncio.wait({asked, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            raise aiohttp.ClientConnectionError(ENDED)
        return asked.result()
    finally:
        await end_tasks({asked, ended})  # it writes nothing any more


def _url(worker: Worker, request: web.Request) -> URL:
    # As it was sent, unless that is a whole address, as for a proxy.
    is_path = request.raw_path.startswith("/")
    path = request.raw_path if is_path else str(request.rel_url)
    return URL(worker.url + path, encoded=True)


def _ended(error: Exception) -> web.Response:
    text = f"A worker ended while it answered. Got '{error}'. Ask again."
    return web.Response(status=502, text=text)


def original_in_temp(body: bytes) -> dict[str, str] | None:
    """Returns the image that an uploaded mask belongs to, if it lies in a temporary folder."""
    found = ORIGINAL.search(body)
    try:
        place = json.loads(found.group(1)) if found else None
    except ValueError:
        return None
    if not isinstance(place, dict) or place.get("type") != "temp":
        return None
    return {key: str(place.get(key, "")) for key in ("filename", "subfolder", "type")}
