"""What became of every prompt: each is run to its end once, or again after its worker died.

The one place where a prompt changes its state. Pure bookkeeping; nothing here waits or sends.
"""

import time
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from itertools import islice
from typing import Any

from .routing import Waiting, models_of

MOST_DEATHS = 2
"""A prompt that so many workers did not survive is not tried on a third."""

LONGEST_HISTORY = 10_000
"""Finished prompts that are remembered, as many as ComfyUI remembers."""

SECRETS = ("auth_token_comfy_org", "api_key_comfy_org")
"""Of `extra_data`: a worker gets them, nobody can ask for them."""

Record = dict[str, Any]
"""A prompt's entry of ComfyUI's history: "prompt", "outputs", "status", "meta"."""


class State(Enum):
    """Where a prompt is."""

    CHECKED = "a worker looks whether it is valid"
    WAITING = "in line"
    SENT = "a worker has it"
    DONE = "it has a record"


@dataclass
class Entry:
    """One prompt."""

    prompt_id: str
    number: float
    """Its place in line: the smallest is the next."""
    body: Mapping[str, Any]
    """What the client posted."""
    state: State = State.CHECKED
    worker: str = ""
    """Key of the worker that has it, or has run it."""
    deaths: set[int] = field(default_factory=set)
    """Slots whose worker died with it."""
    died: int = 0
    """How many workers did."""
    refused: dict[int, str] = field(default_factory=dict)
    """Slots whose worker finds it invalid, and why."""
    overtaken: int = 0
    cancelled: bool = False
    """Whether somebody has stopped it while a worker had it."""
    told: str = ""
    """The last kind of message about its end that its client was sent."""
    record: Record = field(default_factory=dict)
    job: dict[str, Any] | None = None
    """ComfyUI's other description of a finished prompt, where it has one."""
    created: int = field(default_factory=lambda: round(time.time() * 1000))
    """Milliseconds since 1970."""

    @property
    def turn(self) -> tuple[float, int]:
        """Sorts the line."""
        return self.number, self.created

    @property
    def client(self) -> str:
        """Who asked for it, "" if that is unknown."""
        return str(self.body.get("client_id") or "")

    @cached_property
    def models(self) -> frozenset[str]:
        """The model files that it needs."""
        return models_of(self.body["prompt"])

    def item(self) -> list[Any]:
        """Returns it as ComfyUI lists it: number, id, prompt, extra_data, outputs."""
        given = self.body.get("extra_data") or {}
        extra = {key: value for key, value in given.items() if key not in SECRETS}
        extra["create_time"] = self.created
        if self.client:
            extra["client_id"] = self.client
        targets = list(self.body.get("partial_execution_targets") or [])
        return [self.number, self.prompt_id, self.body["prompt"], extra, targets]


class Journal:
    """All prompts by their ids. A change that does not fit a prompt's state has no effect."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        # By state, each in the order in which prompts came to it: no question looks at all prompts.
        self._in: dict[State, dict[str, Entry]] = {state: {} for state in State}
        self._line: list[Entry] = []
        self._count = 0

    def get(self, prompt_id: str) -> Entry | None:
        """Returns a prompt."""
        return self._entries.get(prompt_id)

    def place(self, body: Mapping[str, Any]) -> float:
        """Returns the number of a new prompt, as ComfyUI gives them."""
        if "number" in body:
            return float(body["number"])
        self._count += 1
        return -(self._count - 1) if body.get("front") else self._count - 1

    def add(self, entry: Entry) -> None:
        """Notes a prompt that has still to be checked."""
        assert entry.prompt_id not in self._entries
        self._entries[entry.prompt_id] = entry
        self._in[entry.state][entry.prompt_id] = entry

    def drop(self, prompt_id: str) -> None:
        """Forgets a prompt, whatever has become of it."""
        self._leave(self._entries.pop(prompt_id))

    def _leave(self, entry: Entry) -> None:
        del self._in[entry.state][entry.prompt_id]
        if entry.state is State.WAITING:
            place = bisect_left(self._line, entry.turn, key=_turn)
            while self._line[place] is not entry:
                place += 1  # several prompts may have one number
            del self._line[place]

    def _move(self, entry: Entry, state: State, worker: str) -> None:
        known = self._entries.get(entry.prompt_id) is entry
        if known:
            self._leave(entry)
        entry.state, entry.worker = state, worker
        if known:
            self._in[state][entry.prompt_id] = entry
            if state is State.WAITING:
                insort(self._line, entry, key=_turn)

    def hold(self, entry: Entry) -> None:
        """Puts a prompt into line, which was checked or is not with a worker after all."""
        if entry.state is not State.DONE:
            self._move(entry, State.WAITING, "")

    def send(self, entry: Entry, worker: str) -> None:
        """Notes that a worker has got it."""
        assert entry.state in (State.CHECKED, State.WAITING)
        self._move(entry, State.SENT, worker)

    def finish(self, entry: Entry, worker: str, record: Record) -> bool:
        """Notes a prompt's end. Returns False for a worker that no longer has it."""
        if entry.state is not State.SENT or entry.worker != worker:
            return False
        self._move(entry, State.DONE, worker)
        # The prompt as it was asked for, without what the farm has changed for its worker.
        asked = {"prompt": [*record["prompt"][:2], entry.body["prompt"], *record["prompt"][3:]]}
        entry.record = {**record, **asked}
        done = self._in[State.DONE]
        self.forget(list(islice(done, max(0, len(done) - LONGEST_HISTORY))))
        return True

    def fail(self, entry: Entry, message: str) -> dict[str, Any]:
        """Ends a prompt without a worker, and returns the error as ComfyUI tells it."""
        error = {
            "prompt_id": entry.prompt_id,
            "node_id": "",
            "node_type": "",
            "executed": [],
            "exception_message": message,
            "exception_type": "wanduet.WorkerLost",
            "traceback": [],
            "current_inputs": {},
            "current_outputs": [],
            "timestamp": round(time.time() * 1000),
        }
        status = {"status_str": "error", "completed": False}
        status["messages"] = [["execution_error", error]]
        record = {"prompt": entry.item(), "outputs": {}, "status": status, "meta": {}}
        self._move(entry, State.SENT, "")
        self.finish(entry, "", record)
        return error

    def lose(self, entry: Entry, slot: int) -> bool:
        """Puts a prompt back into line whose worker died. Returns False if it may not."""
        entry.deaths.add(slot)
        entry.died += 1
        self.hold(entry)
        return entry.died < MOST_DEATHS

    def refuse(self, entry: Entry, slot: int, why: str) -> None:
        """Puts a prompt back into line that another worker has found valid."""
        entry.refused[slot] = why
        self.hold(entry)

    def joined(self, slot: int) -> None:
        """Notes a new worker of a slot, which may have the files that the one before lacked."""
        for entry in self._entries.values():
            entry.refused.pop(slot, None)

    def cancel(self, prompt_ids: Iterable[str]) -> bool:
        """Takes prompts out of line. Returns whether there was one."""
        found = [key for key in dict.fromkeys(prompt_ids) if key in self._in[State.WAITING]]
        for key in found:
            self.drop(key)
        return bool(found)

    def forget(self, prompt_ids: Iterable[str]) -> None:
        """Forgets prompts that have ended."""
        for key in [key for key in prompt_ids if key in self._in[State.DONE]]:
            self.drop(key)

    def waiting(self) -> list[Entry]:
        """Returns the line, the next one first."""
        return list(self._line)

    def line(self, slots: Iterable[int]) -> list[Waiting]:
        """Returns the line for `routing.next_run`.

        Args:
            slots: of all workers that live. One that died with a prompt runs it only if there is
                no other that can.
        """
        alive = set(slots)
        return [
            Waiting(
                entry.prompt_id,
                entry.models,
                entry.overtaken,
                bool(entry.body.get("front")) or entry.died > 0,
                _avoided(entry, alive),
            )
            for entry in self._line
        ]

    def sent(self, worker: str | None = None) -> list[Entry]:
        """Returns the prompts that a worker has, or all of them."""
        sent = self._in[State.SENT].values()
        return [entry for entry in sent if worker in (None, entry.worker)]

    def done(self) -> list[Entry]:
        """Returns the finished prompts, the last one last."""
        return list(self._in[State.DONE].values())

    @property
    def remaining(self) -> int:
        """How many prompts run or wait."""
        return len(self._line) + len(self._in[State.SENT])

    def history(self, most: int | None = None, offset: int = -1) -> dict[str, Record]:
        """Returns records by id.

        Args:
            most: so many at most.
            offset: how many of the oldest to leave out; -1: as many as there are too many.
        """
        done = self.done()
        start = offset if offset >= 0 else (0 if most is None else max(0, len(done) - most))
        chosen = done[start:] if most is None else done[start : start + most]
        return {entry.prompt_id: entry.record for entry in chosen}


def _turn(entry: Entry) -> tuple[float, int]:
    return entry.turn


def _avoided(entry: Entry, alive: set[int]) -> frozenset[int]:
    others = alive - entry.deaths - set(entry.refused)
    return frozenset({*entry.refused, *(entry.deaths if others else ())})
