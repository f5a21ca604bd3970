"""Takes prompts, gives them to workers, and has their records: what lies behind the address."""

import asyncio
import logging
import uuid
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from .answers import NO_WORKER, OK, Answer, in_words, queued, refusal
from .clients import Clients
from .delivery import post_once, taken_back
from .journal import MOST_DEATHS, Entry, Journal, State
from .output_names import mark_names
from .routing import Free, Waiting, next_run
from .waiting import end_tasks
from .worker import Worker, WorkerGoneError

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.02
"""Between looks for a record that is being written."""

END_SECONDS = 60.0
"""In which what runs beside has ended, with its workers, or is told once more to end."""

T = TypeVar("T")


class Farm:
    """All prompts and all workers that live."""

    def __init__(self, *, mark_files: bool = True) -> None:
        """Has no worker yet; `crew.Crew` brings them.

        Args:
            mark_files: whether names of files get the worker's number.
        """
        self.journal = Journal()
        self.workers: dict[int, Worker] = {}
        """Those that take prompts, by slot."""
        self.expected: set[int] = set()
        """Slots that have a worker, or soon have one again."""
        self.clients = Clients(self.finished)
        self._mark_files = mark_files
        self._changed = asyncio.Event()
        self._announced = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._checks: dict[str, asyncio.Task[Answer]] = {}
        """Prompts that are being checked, by id."""

    def start(self) -> None:
        """Begins to give out prompts."""
        self.spawn(self._dispatch())
        self.spawn(self._announce())

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Runs something beside, until the farm is closed."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Ends what runs beside."""
        await end_tasks(self._tasks, END_SECONDS)
        await self.clients.close()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("A part of the farm failed.", exc_info=task.exception())

    # What clients ask for

    def status(self) -> dict[str, Any]:
        """Returns what ComfyUI calls the status of its queue."""
        return {"exec_info": {"queue_remaining": self.journal.remaining}}

    async def queue(self, body: dict[str, Any]) -> Answer:
        """Has a worker check a prompt, and puts it into line or leaves it there.

        A prompt whose id is known is not queued again: a client that got no answer may ask twice,
        and gets the first answer.
        """
        prompt_id = str(body.get("prompt_id") or uuid.uuid4())
        check = self._checks.get(prompt_id)
        if check is None:
            known = self.journal.get(prompt_id)
            if known is not None:
                return OK, queued(known, {})
            entry = Entry(prompt_id, self.journal.place(body), body)
            self.journal.add(entry)
            check = self._checks[prompt_id] = self.spawn(self._check(entry))
        return await asyncio.shield(check)

    async def cancel(self, prompt_ids: Iterable[str]) -> bool:
        """Stops prompts that run. Returns whether there was one."""
        running = [self.journal.get(each) for each in prompt_ids]
        found = [e for e in running if e is not None and e.state is State.SENT]
        for entry in found:
            entry.cancelled = True
        await asyncio.gather(*(self._stop(entry) for entry in found))
        self.changed()
        return bool(found)

    async def _stop(self, entry: Entry) -> None:
        worker = self.worker_of(entry)
        if worker is None:
            return
        try:
            async with worker.lock:
                if await worker.take_back(entry.prompt_id):
                    self.journal.hold(entry)
                    self.journal.cancel([entry.prompt_id])
                else:
                    await worker.interrupt(entry.prompt_id)
        except WorkerGoneError as error:
            logger.warning("A prompt could not be stopped: %s", error)

    def changed(self) -> None:
        """To be called after a change of the journal or of the workers."""
        self._changed.set()

    # Checking

    async def _check(self, entry: Entry) -> Answer:
        """Asks one worker after another, until one finds a prompt valid."""
        tried: set[str] = set()
        gone = 0
        first: Answer | None = None
        try:
            while gone < MOST_DEATHS and (worker := self._least_busy(entry, tried)) is not None:
                tried.add(worker.key)
                try:
                    status, answer = await self._admit(worker, entry)
                except WorkerGoneError:
                    gone += 1
                    continue
                if status == OK:
                    return status, answer
                entry.refused[worker.slot] = refusal(answer)
                first = first or in_words(status, answer)
            return first or (503, NO_WORKER)
        finally:
            del self._checks[entry.prompt_id]
            if entry.state is State.CHECKED:
                self.journal.drop(entry.prompt_id)
            self._changed.set()

    def _least_busy(self, entry: Entry, tried: set[str]) -> Worker | None:
        workers = [w for w in self.workers.values() if w.key not in tried and not w.slow]
        free = [_as_free(each) for each in workers if self.is_free(each)]
        choice = next_run([Waiting(entry.prompt_id, entry.models)], free)
        if choice is not None:
            return self.workers[choice.slot]
        return min(workers, key=lambda each: each.asked, default=None)

    async def _admit(self, worker: Worker, entry: Entry) -> Answer:
        """Has a worker check a prompt, which it runs if it has nothing else to do.

        ComfyUI checks what it queues, so it is taken out again where it would wait: there it would
        be lost with the worker, and could not go to another.
        """
        worker.asked += 1
        async with worker.lock:
            free = self.is_free(worker)
            worker.reserved = worker.reserved or free
            try:
                status, answer = await post_once(worker, self._body(entry, worker))
            finally:
                worker.reserved = worker.reserved and not free
            if status != OK:
                return status, answer
            if free or not await taken_back(worker, entry.prompt_id):
                self._sent(worker, entry)
            else:
                self.journal.hold(entry)
        if not worker.alive:
            self.journal.hold(entry)  # it ended at this moment, and nobody has seen this prompt run
        self.spawn(self._look(worker))
        return OK, queued(entry, answer)

    def is_free(self, worker: Worker) -> bool:
        """Whether a worker has nothing to do, and answers."""
        return not (worker.reserved or worker.slow or self.journal.sent(worker.key))

    # Giving out

    async def _dispatch(self) -> None:
        """Gives prompts to free workers whenever something has changed."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._give_out():
                pass
            await self._fail_refused()
            self._announced.set()

    def _give_out(self) -> bool:
        """Gives one prompt to one worker, if both are there."""
        free = [_as_free(each) for each in self.workers.values() if self.is_free(each)]
        choice = next_run(self.journal.line(self.workers), free) if free else None
        if choice is None:
            return False
        passed = self.journal.get(choice.passed or "")
        if passed is not None:
            passed.overtaken += 1
        entry, worker = self.journal.get(choice.prompt_id), self.workers[choice.slot]
        assert entry is not None
        worker.reserved = True
        self._sent(worker, entry)
        self.spawn(self._send(worker, entry))
        return True

    def _sent(self, worker: Worker, entry: Entry) -> None:
        self.journal.send(entry, worker.key)
        worker.holds = entry.models
        worker.served += 1

    async def _send(self, worker: Worker, entry: Entry) -> None:
        """Queues a prompt at the worker that it is noted for."""
        status, answer = OK, None
        try:
            async with worker.lock:
                status, answer = await post_once(worker, self._body(entry, worker))
        except WorkerGoneError:
            return  # `lost` puts it back into line
        finally:
            worker.reserved = False
            self.changed()
        if status != OK and entry.worker == worker.key:
            self.journal.refuse(entry, worker.slot, refusal(answer))
            self.changed()
        self.spawn(self._look(worker))

    async def _fail_refused(self) -> None:
        """Ends prompts that every worker finds invalid, once none is to come that may not."""
        everyone = self.expected | set(self.workers)
        for entry in self.journal.waiting():
            if entry.refused and everyone <= set(entry.refused):
                await self.fail(entry, next(iter(entry.refused.values())))

    async def _look(self, worker: Worker) -> None:
        """Surveys a worker that may have ended a prompt before it was noted here."""
        try:
            await self.survey(worker)
        except WorkerGoneError as error:
            logger.debug("Worker %d does not answer: %s", worker.slot, error)

    def _body(self, entry: Entry, worker: Worker) -> dict[str, Any]:
        prompt = entry.body["prompt"]
        if self._mark_files:
            prompt = mark_names(prompt, worker.slot)
        name = {"prompt_id": entry.prompt_id, "number": entry.number}
        return {**entry.body, **name, "prompt": prompt}

    # Ends

    async def survey(self, worker: Worker) -> None:
        """Looks what became of the prompts that a worker has.

        Raises:
            WorkerGoneError: if it does not answer.
        """
        async with worker.lock:
            # One that is reserved has a prompt coming that it does not know yet.
            for entry in [] if worker.reserved else self.journal.sent(worker.key):
                queued = await worker.queued()
                record = await worker.record(entry.prompt_id)
                if record is not None:
                    job = await worker.job(entry.prompt_id)
                    if self.journal.finish(entry, worker.key, record):
                        entry.job = job
                        self.changed()
                elif entry.prompt_id not in queued and entry.worker == worker.key:
                    await self._forgotten(entry)

    async def finished(self, worker: Worker, prompt_id: str, kind: str) -> bool:
        """Waits for the record of a prompt that a worker has called ended.

        Returns False if the worker ended before its record could be had. What clients are told to
        be done is never run again.
        """
        entry = self.journal.get(prompt_id)
        while entry is not None and entry.state is not State.DONE:
            if self.journal.get(prompt_id) is not entry:
                return True  # it was taken out of line
            if not worker.alive or entry.worker not in ("", worker.key):
                return False
            try:
                await self.survey(worker)
            except WorkerGoneError as error:
                logger.debug("Worker %d does not answer: %s", worker.slot, error)
            if entry.state is not State.DONE:
                await asyncio.sleep(POLL_SECONDS)
        if entry is None:
            return True
        if entry.worker == worker.key:
            entry.told = kind
        return entry.worker == worker.key

    async def _forgotten(self, entry: Entry) -> None:
        """Puts a prompt back that somebody has taken from its worker behind our back."""
        if entry.cancelled:
            await self.fail(entry, "The prompt was cancelled.")
            return
        logger.warning("Prompt %s runs again. Its worker has forgotten it.", entry.prompt_id)
        self.journal.hold(entry)
        self.changed()

    def joined(self, worker: Worker) -> None:
        """Gives prompts to a new worker from now on."""
        self.workers[worker.slot] = worker
        self.journal.joined(worker.slot)
        self.changed()

    async def lost(self, worker: Worker, how: str) -> None:
        """Puts what a worker had back into line, after it has ended."""
        worker.ended.set()
        if self.workers.get(worker.slot) is worker:
            del self.workers[worker.slot]
        self.clients.remove_worker(worker)
        for entry in self.journal.sent(worker.key):
            await self._again(worker, entry, f"Its worker ended ({how}).")
        for entry in self.journal.done():
            if entry.worker == worker.key and entry.told != "executing":
                await self._tell_end(entry)
        self.changed()

    async def _tell_end(self, entry: Entry) -> None:
        """Tells a client of an end that its worker no longer can."""
        messages = (entry.record.get("status") or {}).get("messages")
        if messages and not entry.told:
            await self.clients.send(entry.client, *messages[-1])
        entry.told = "executing"
        ended = {"node": None, "prompt_id": entry.prompt_id}
        await self.clients.send(entry.client, "executing", ended)

    async def _again(self, worker: Worker, entry: Entry, why: str) -> None:
        if entry.cancelled:
            await self.fail(entry, f"The prompt was cancelled. {why}")
        elif self.journal.lose(entry, worker.slot):
            logger.warning("Prompt %s runs again. %s", entry.prompt_id, why)
        else:
            await self.fail(
                entry,
                f"The prompt ended two workers. Got '{why}' twice, need one that survives it. Look "
                "into their logs: they may be out of memory. Then queue it again.",
            )
        self.changed()

    async def fail(self, entry: Entry, message: str) -> None:
        """Ends a prompt with an error that its client sees."""
        logger.error("Prompt %s failed. %s", entry.prompt_id, message)
        self.journal.fail(entry, message)
        await self._tell_end(entry)
        self.changed()

    # Telling

    async def _announce(self) -> None:
        """Tells clients of changes; a slow one keeps nobody waiting."""
        while True:
            await self._announced.wait()
            self._announced.clear()
            self.clients.announce(self.status())

    def worker_of(self, entry: Entry) -> Worker | None:
        """Returns the worker that has a prompt, None if it waits or its worker has ended."""
        return next((w for w in self.workers.values() if w.key == entry.worker), None)


def _as_free(worker: Worker) -> Free:
    return Free(worker.slot, worker.holds, worker.served)
