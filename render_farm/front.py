"""ComfyUI's own interface at one address, for clients that need not know of the workers.

What concerns prompts is answered here, from the journal. Everything else, such as the editor's
files, descriptions of nodes and other packs' routes, any worker answers.
"""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from . import jobs, questions
from .answers import OK
from .crew import Crew
from .farm import Farm
from .journal import State
from .proxy import TEMPORARY, Proxy, original_in_temp
from .questions import Handler
from .same_origin import same_origin
from .worker import Worker, WorkerGoneError

logger = logging.getLogger(__name__)

LARGEST_BODY = 1 << 30
"""Bytes; workers have limits of their own."""

LOOK_SECONDS = 2.0
"""For a look at a worker that may have just ended a prompt."""


def make_app(farm: Farm, crew: Crew, proxy: Proxy) -> web.Application:
    """Returns the application that answers at the farm's address."""
    app = web.Application(
        client_max_size=LARGEST_BODY, middlewares=[same_origin, questions.in_words]
    )
    front = Front(farm, crew, proxy)
    for method, path, handler in front.routes():
        app.router.add_route(method, path, handler)
        if not path.startswith("/api/"):
            app.router.add_route(method, "/api" + path, handler)
    app.router.add_route("*", "/{path:.*}", front.anything)
    return app


class Front:
    """The handlers."""

    def __init__(self, farm: Farm, crew: Crew, proxy: Proxy) -> None:
        self._farm = farm
        self._crew = crew
        self._proxy = proxy
        self._journal = farm.journal
        self._uploading = asyncio.Lock()

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Returns method, path and handler of all that is not passed on as it is."""
        return [
            ("GET", "/ws", self.listen),
            ("GET", "/prompt", self.get_prompt),
            ("POST", "/prompt", self.post_prompt),
            ("GET", "/queue", self.get_queue),
            ("POST", "/queue", self.post_queue),
            ("POST", "/interrupt", self.interrupt),
            ("GET", "/history", self.get_history),
            ("GET", "/history/{prompt_id}", self.get_record),
            ("POST", "/history", self.post_history),
            ("GET", "/api/jobs", self.get_jobs),
            ("GET", "/api/jobs/{job_id}", self.get_job),
            ("POST", "/api/jobs/cancel", self.cancel_jobs),
            ("POST", "/api/jobs/{job_id}/cancel", self.cancel_jobs),
            ("POST", "/free", self.everybody),
            ("GET", "/view", self.view),
            ("POST", "/upload/image", self.upload),
            ("POST", "/upload/mask", self.upload),
            ("GET", "/system_stats", self.system_stats),
            ("GET", "/wanduet/hello", self.hello),
            ("GET", "/wanduet/farm", self.describe),
        ]

    # Prompts

    async def listen(self, request: web.Request) -> web.StreamResponse:
        """Passes on what workers send to one client."""
        return await self._farm.clients.serve(request, self._farm.status)

    async def get_prompt(self, request: web.Request) -> web.StreamResponse:
        """Says how many prompts there are."""
        del request
        return web.json_response(self._farm.status())

    async def post_prompt(self, request: web.Request) -> web.StreamResponse:
        """Queues a prompt."""
        body = questions.checked_prompt(await questions.json_object(request))
        status, answer = await self._farm.queue(body)
        return web.json_response(answer, status=status)

    async def get_queue(self, request: web.Request) -> web.StreamResponse:
        """Lists what runs and what waits."""
        del request
        running = [entry.item() for entry in self._journal.sent()]
        pending = [entry.item() for entry in self._journal.waiting()]
        return web.json_response({"queue_running": running, "queue_pending": pending})

    async def post_queue(self, request: web.Request) -> web.StreamResponse:
        """Takes prompts out of line."""
        body = await questions.json_object(request)
        clear, named = questions.flag(body, "clear"), questions.texts(body, "delete")
        if clear:
            self._journal.cancel([entry.prompt_id for entry in self._journal.waiting()])
        self._journal.cancel(named)
        self._farm.changed()
        return web.Response()

    async def interrupt(self, request: web.Request) -> web.StreamResponse:
        """Stops one prompt, those of one client, or all that run."""
        body = await questions.json_object(request, lenient=True)
        prompt_id, client = (questions.text(body, name) for name in ("prompt_id", "client_id"))
        await self._farm.cancel(
            entry.prompt_id
            for entry in self._journal.sent()
            if (not prompt_id or entry.prompt_id == prompt_id)
            and (not client or entry.client == client)
        )
        return web.Response()

    async def get_history(self, request: web.Request) -> web.StreamResponse:
        """Returns the records of finished prompts."""
        most, offset = (
            questions.whole_number(request.query, name) for name in ("max_items", "offset")
        )
        return web.json_response(self._journal.history(most, -1 if offset is None else offset))

    async def get_record(self, request: web.Request) -> web.StreamResponse:
        """Returns a finished prompt's record by its id, {} for any other."""
        entry = self._journal.get(request.match_info["prompt_id"])
        worker = None if entry is None else self._farm.worker_of(entry)
        if entry is not None and entry.state is State.SENT and worker is not None:
            await _ignoring(asyncio.wait_for(self._farm.survey(worker), LOOK_SECONDS))
        if entry is None or entry.state is not State.DONE:
            return web.json_response({})
        return web.json_response({entry.prompt_id: entry.record})

    async def post_history(self, request: web.Request) -> web.StreamResponse:
        """Forgets finished prompts."""
        body = await questions.json_object(request)
        clear, given = questions.flag(body, "clear"), set(questions.texts(body, "delete"))
        done = [e for e in self._journal.done() if clear or e.prompt_id in given]
        self._journal.forget([entry.prompt_id for entry in done])
        # Not the request itself: a worker's history may have what is not noted here yet.
        await asyncio.gather(
            *(
                _ignoring(worker.forget([e.prompt_id for e in done if e.worker == worker.key]))
                for worker in self._workers()
                if any(entry.worker == worker.key for entry in done)
            )
        )
        return web.Response()

    async def get_jobs(self, request: web.Request) -> web.StreamResponse:
        """Lists prompts in the newer form."""
        if not any(worker.has_jobs for worker in self._workers()):
            return web.Response(status=404)
        return web.json_response(jobs.page(self._journal, request.query))

    async def get_job(self, request: web.Request) -> web.StreamResponse:
        """Describes one prompt in the newer form."""
        entry = self._journal.get(request.match_info["job_id"])
        if entry is None or entry.state is State.CHECKED:
            return web.json_response({"error": "Job not found"}, status=404)
        return web.json_response(jobs.describe(entry))

    async def cancel_jobs(self, request: web.Request) -> web.StreamResponse:
        """Stops prompts, or takes them out of line."""
        one = request.match_info.get("job_id")
        found = [one] if one else None
        if found is None:
            found = questions.texts(await questions.json_object(request), "job_ids")
        waiting = self._journal.cancel(found)
        running = await self._farm.cancel(found)
        return web.json_response({"cancelled": waiting or running})

    # Everything else

    async def everybody(self, request: web.Request) -> web.StreamResponse:
        """Tells all workers to let go of memory."""
        body, path = await questions.json_object(request), request.path
        for name in ("unload_models", "free_memory"):
            questions.flag(body, name)
        await asyncio.gather(*(_ignoring(w.ask("POST", path, body)) for w in self._answering()))
        return web.Response()

    async def view(self, request: web.Request) -> web.StreamResponse:
        """Returns a file, of whichever worker has it: temporary ones only their maker has."""
        return await self._proxy.forward(request, self._workers(), until_found=True)

    async def upload(self, request: web.Request) -> web.StreamResponse:
        """Takes a file into the shared folder, or into all workers' temporary ones.

        One at a time, by the first worker: ComfyUI looks for a free name before it writes.
        """
        body = await request.read()
        async with self._uploading:
            workers = sorted(self._workers(), key=lambda worker: (worker.slot, worker.slow))
            original = original_in_temp(body)
            if original is not None:
                return await self._proxy.forward(request, await _having(workers, original))
            if TEMPORARY.search(body):
                return await self._proxy.to_all(request, workers)
            return await self._proxy.forward(request, workers)

    async def system_stats(self, request: web.Request) -> web.StreamResponse:
        """Describes the first worker's computer, and all workers' GPUs."""
        asked = [_ignoring(w.ask("GET", "/system_stats")) for w in self._answering()]
        found = [answer[1] for answer in await asyncio.gather(*asked) if answer]
        if not found:
            return await self.anything(request)
        devices = [device for each in found for device in each["devices"]]
        return web.json_response({**found[0], "devices": devices})

    async def hello(self, request: web.Request) -> web.StreamResponse:
        """Notes for all workers, also those to come, what a client shows.

        Answers what the worker says that runs this client's prompt.
        """
        client = request.query.get("client_id", "")
        self._farm.clients.greeted(client, request.path_qs)
        mine = {e.worker for e in self._journal.sent() if client and e.client == client}
        workers = self._answering()
        asked = [_ignoring(worker.ask("GET", request.path_qs)) for worker in workers]
        answers = zip(workers, await asyncio.gather(*asked), strict=True)
        said = [answer[1] for worker, answer in answers if answer and worker.key in mine]
        return web.json_response(next((each for each in said if each), {}))

    async def describe(self, request: web.Request) -> web.StreamResponse:
        """Says what the workers do."""
        del request
        return web.json_response({"workers": [self._crew.describe(s) for s in self._crew.slots]})

    async def anything(self, request: web.Request) -> web.StreamResponse:
        """Has a worker answer."""
        return await self._proxy.forward(request, self._workers())

    def _answering(self) -> list[Worker]:
        return [worker for worker in self._workers() if not worker.slow]

    def _workers(self) -> list[Worker]:
        """Returns all that live, those first that have nothing else to do, slow ones last."""
        workers = sorted(self._farm.workers.values(), key=lambda worker: worker.slot)
        return sorted(workers, key=lambda each: (each.slow, not self._farm.is_free(each)))


async def _having(workers: list[Worker], place: dict[str, str]) -> list[Worker]:
    """Returns the worker first that has a file."""
    for worker in workers:
        answer = await _ignoring(worker.ask("HEAD", f"/view?{urlencode(place)}"))
        if answer and answer[0] == OK:
            return [worker]
    return workers


async def _ignoring(work: Awaitable[Any]) -> Any:
    """Waits for something that a worker need not survive."""
    try:
        return await work
    except (WorkerGoneError, asyncio.TimeoutError) as error:
        logger.debug("A worker did not answer: %s", error)
        return None
