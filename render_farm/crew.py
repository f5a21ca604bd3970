"""Keeps a ComfyUI running in every slot, and tells the farm of those that come and go."""

import asyncio
import json
import logging
import math
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp

from .answers import OK
from .engine import Engine, FarmError, Process
from .farm import Farm
from .waiting import within
from .worker import Worker, WorkerGoneError

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.3

SURVEY_SECONDS = 5.0
"""How often a worker is asked for what its messages did not tell."""

SILENT_SECONDS = 60.0
"""A worker without a connection, or that does not tell its queue, for so long is ended, and with it
the doubt whether it runs."""

HEARTBEAT_SECONDS = 30.0
"""How often a quiet connection is tried."""

END_SECONDS = 60.0
"""In which one that was ended has ended, or nobody will ever tell: its computer is gone."""

STEADY_SECONDS = 60.0
"""Who was ready for so long is started again at once."""

LONGEST_PAUSE = 60.0

START_SECONDS = 900.0
"""Who does not answer so long after its start is ended; packs may download something first."""

MOST_FAILURES = 3
"""After so many starts in a row that fail, prompts do not wait for a slot any more."""


@dataclass
class Slot:
    """One place for a ComfyUI."""

    number: int
    state: str = "starting"
    lives: int = 0
    ready_since: float = math.inf
    """By the monotonic clock; a start that takes long is no steady life."""


class Crew:
    """The workers of one engine."""

    def __init__(self, engine: Engine, farm: Farm, session: aiohttp.ClientSession) -> None:
        """Starts nothing yet."""
        self._engine = engine
        self._farm = farm
        self._session = session
        self._processes: dict[int, Process] = {}
        self.slots = [Slot(number) for number in range(1, engine.slots + 1)]

    def start(self) -> None:
        """Begins to fill all slots."""
        self._farm.expected.update(slot.number for slot in self.slots)
        for slot in self.slots:
            self._farm.spawn(self._keep(slot))

    def describe(self, slot: Slot) -> dict[str, Any]:
        """Says what a slot's worker does."""
        process, worker = self._processes.get(slot.number), self._farm.workers.get(slot.number)
        busy = self._farm.journal.sent(worker.key) if worker is not None else []
        return {
            "worker": slot.number,
            "state": slot.state,
            "started": slot.lives,
            "host": process.host if process else "",
            "port": process.port if process else 0,
            "pid": process.pid if process else 0,
            "prompt_id": busy[0].prompt_id if busy else None,
            "models": sorted(worker.holds) if worker else [],
            "served": worker.served if worker else 0,
        }

    async def close(self) -> None:
        """Ends all workers; the farm has to be closed before."""
        processes = list(self._processes.values())
        await asyncio.gather(*(each.end() for each in processes), return_exceptions=True)
        await self._engine.close()

    async def _keep(self, slot: Slot) -> None:
        """Has a ComfyUI in a slot, for ever."""
        failures = 0
        while True:
            slot.lives += 1
            slot.ready_since = math.inf
            try:
                how = await self._live(slot)
            except (FarmError, OSError) as error:
                how = str(error)
            except Exception as error:
                logger.exception("Worker %d could not be started.", slot.number)
                how = repr(error)
            slot.state = f"ended: {how}"
            steady = time.monotonic() - slot.ready_since > STEADY_SECONDS
            failures = 0 if steady else failures + 1
            if failures >= MOST_FAILURES:
                self._farm.expected.discard(slot.number)
                self._farm.changed()
            pause = min(LONGEST_PAUSE, 2.0**failures) if failures else 0.0
            logger.warning("Worker %d: %s. It is started again.", slot.number, how)
            await asyncio.sleep(pause)

    async def _live(self, slot: Slot) -> str:
        """Starts a ComfyUI, has it work until it ends, and returns how it ended.

        Raises:
            FarmError: if it cannot be started.
        """
        slot.state = "starting"
        process = await self._engine.start(slot.number)
        self._processes[slot.number] = process
        worker = Worker(slot.number, f"{slot.number}.{slot.lives}", process, self._session)
        work = asyncio.ensure_future(self._work(slot, worker))
        end = asyncio.ensure_future(process.wait())
        how = "stopped"
        try:
            await asyncio.wait({work, end}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                logger.error("Worker %d is ended.", slot.number, exc_info=work.exception())
                await process.end()
                await asyncio.wait({end}, timeout=END_SECONDS)
            how = end.result() if end.done() else "nobody can say how"
            return how
        finally:
            work.cancel()
            end.cancel()
            try:
                await process.end()  # first: what it runs is about to run again somewhere else
            finally:
                await self._farm.lost(worker, how)
                self._processes.pop(slot.number, None)

    async def _work(self, slot: Slot, worker: Worker) -> None:
        """Adds a worker to the farm once it answers, and watches it."""
        try:
            await within(START_SECONDS, self._answers(worker))
        except asyncio.TimeoutError:
            text = f"It does not answer {START_SECONDS:.0f} s after its start."
            raise WorkerGoneError(text) from None
        await self._farm.clients.add_worker(worker)
        self._farm.expected.add(slot.number)
        self._farm.joined(worker)
        slot.state, slot.ready_since = "ready", time.monotonic()
        logger.info("Worker %d is ready: %s", slot.number, worker.url)
        changed = asyncio.Event()
        await asyncio.gather(self._watch(worker, changed), self._survey(worker, changed))

    async def _answers(self, worker: Worker) -> None:
        while True:
            try:
                status, _ = await worker.ask("GET", "/system_stats")
                if status == OK:
                    worker.has_jobs = (await worker.ask("GET", "/api/jobs?limit=1"))[0] == OK
                    return
            except WorkerGoneError as error:
                logger.debug("Worker %d does not answer yet: %s", worker.slot, error)
            await asyncio.sleep(POLL_SECONDS)

    async def _watch(self, worker: Worker, changed: asyncio.Event) -> None:
        """Sets an event whenever a worker's queue has changed, as long as it can be reached.

        Raises:
            WorkerGoneError: if there was no sign of life for SILENT_SECONDS.
        """
        heard = time.monotonic()
        while worker.alive and (left := heard + SILENT_SECONDS - time.monotonic()) > 0:
            try:
                async with worker.socket(left, heartbeat=HEARTBEAT_SECONDS) as socket:
                    heard = time.monotonic()
                    async for message in socket:
                        heard = time.monotonic()
                        if message.type is aiohttp.WSMsgType.TEXT and _is_status(message.data):
                            changed.set()
                    # A quiet connection is closed half a heartbeat after an unanswered one.
                    heard = max(heard, time.monotonic() - 1.5 * HEARTBEAT_SECONDS)
            except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
                logger.debug("No connection with worker %d: %s", worker.slot, error)
            await asyncio.sleep(POLL_SECONDS)
        if worker.alive:
            raise WorkerGoneError("It cannot be reached.")

    async def _survey(self, worker: Worker, changed: asyncio.Event) -> None:
        """Looks for ended prompts, and whether a slow worker answers again.

        Raises:
            WorkerGoneError: if it does not tell its queue for SILENT_SECONDS.
        """
        failing = math.inf
        while worker.alive:
            with suppress(asyncio.TimeoutError):
                await within(SURVEY_SECONDS, changed.wait())
            changed.clear()
            before = worker.slow
            try:
                await worker.queued()
                failing = math.inf
                await self._farm.survey(worker)
            except WorkerGoneError as error:
                logger.debug("Worker %d does not answer: %s", worker.slot, error)
                failing = min(failing, time.monotonic())
                if time.monotonic() - failing > SILENT_SECONDS:
                    raise
            if worker.slow != before:
                self._farm.changed()


def _is_status(text: str) -> bool:
    return json.loads(text).get("type") == "status"
