"""Every prompt ends once, whatever dies."""

import random
from typing import Any

import pytest

from render_farm import jobs
from render_farm.journal import Entry, Journal, State
from render_farm.routing import Choice, Free, next_run


def record(prompt_id: str, **more: Any) -> dict[str, Any]:
    return {"prompt": [0, prompt_id, {"sent": 1}, {}, []], "outputs": {}, "status": {}, **more}


def queued(journal: Journal, prompt_id: str, **body: Any) -> Entry:
    """Adds a prompt that is valid."""
    body = {"prompt": {}, **body}
    entry = Entry(prompt_id, journal.place(body), body)
    journal.add(entry)
    journal.hold(entry)
    return entry


def test_the_line_is_comfyuis():
    journal = Journal()
    for name, options in (("a", {}), ("b", {}), ("c", {"front": True}), ("d", {"number": 0.5})):
        queued(journal, name, **options)
    assert [entry.prompt_id for entry in journal.waiting()] == ["c", "a", "d", "b"]
    assert journal.cancel(["a", "unknown"])
    assert not journal.cancel(["a"])
    assert journal.remaining == 3


def test_a_late_record_counts_for_nothing():
    """A worker that was given up may still say that it is done."""
    journal = Journal()
    entry = queued(journal, "p")
    journal.send(entry, "1.1")
    assert journal.lose(entry, 1)
    assert not journal.finish(entry, "1.1", record("p"))
    journal.send(entry, "2.1")
    assert not journal.finish(entry, "1.1", record("p"))
    assert journal.finish(entry, "2.1", record("p", meta=2))
    assert not journal.finish(entry, "2.1", record("p", meta=3))
    journal.hold(entry)
    assert journal.history() == {"p": record("p", meta=2) | {"prompt": [0, "p", {}, {}, []]}}


def test_again_on_another_worker_and_not_a_third_time():
    journal = Journal()
    entry = queued(journal, "p", client_id="me")
    journal.send(entry, "1.1")
    assert journal.lose(entry, 1)
    (line,) = journal.line([1, 2])
    assert (line.avoid, line.first) == ({1}, True)
    (line,) = journal.line([1])
    assert line.avoid == set(), "the only worker may try it"
    journal.send(entry, "2.1")
    assert not journal.lose(entry, 2)
    error = journal.fail(entry, "No.")
    assert error["exception_message"] == "No."
    assert entry.state is State.DONE
    status = journal.history()["p"]["status"]
    assert status["messages"] == [["execution_error", error]]


def test_the_only_one_that_can_tries_again():
    """Worker 2 died with it, worker 1 has not got the file."""
    journal = Journal()
    entry = queued(journal, "p")
    journal.send(entry, "2.1")
    assert journal.lose(entry, 2)
    journal.send(entry, "1.1")
    journal.refuse(entry, 1, "no file")
    assert next_run(journal.line([1, 2]), [Free(1), Free(2)]) == Choice("p", 2)
    journal.joined(1)
    assert next_run(journal.line([1, 2]), [Free(1), Free(2)]) == Choice("p", 1)


def test_history_by_parts():
    journal = Journal()
    for name in "abcd":
        queued(journal, name)
    for name in "bdac":
        entry = journal.get(name)
        assert entry is not None
        journal.send(entry, "1.1")
        journal.finish(entry, "1.1", record(name))
    assert list(journal.history()) == ["b", "d", "a", "c"]
    assert list(journal.history(2)) == ["a", "c"]
    assert list(journal.history(2, 1)) == ["d", "a"]
    journal.forget(["d", "unknown"])
    assert list(journal.history()) == ["b", "a", "c"]


def test_secrets_are_not_listed():
    extra = {"api_key_comfy_org": "secret", "auth_token_comfy_org": "secret", "extra_pnginfo": {}}
    entry = Entry("p", 0, {"prompt": {}, "extra_data": extra, "client_id": "me"})
    assert "secret" not in str(entry.item())
    assert entry.item()[3] == {
        "extra_pnginfo": {},
        "client_id": "me",
        "create_time": entry.created,
    }
    assert "secret" not in str(jobs.describe(entry))


def test_jobs():
    journal = Journal()
    for name in ("failed", "running", "waiting"):
        queued(journal, name, extra_data={"extra_pnginfo": {"workflow": {"id": name}}})
    for name in ("failed", "running"):
        entry = journal.get(name)
        assert entry is not None
        journal.send(entry, "1.1")
        if name == "failed":
            journal.fail(entry, "No.")

    def ids(**question: str) -> list[str]:
        return [job["id"] for job in jobs.page(journal, question)["jobs"]]

    assert sorted(ids()) == ["failed", "running", "waiting"]
    assert ids(status="in_progress,completed") == ["running"]
    assert ids(workflow_id="waiting") == ["waiting"]
    page = jobs.page(journal, {"limit": "2", "offset": "1", "sort_order": "asc"})
    assert page["pagination"] == {"offset": 1, "limit": 2, "total": 3, "has_more": False}
    assert all("workflow" not in job for job in page["jobs"])

    running = journal.get("running")
    assert running is not None
    changed = {"prompt": {"of": "its worker"}, "extra_data": {}}
    assert journal.finish(running, "1.1", {"prompt": running.item(), "outputs": {}})
    running.job = {"id": "running", "status": "completed", "workflow": changed}
    asked = {**changed, "prompt": running.body["prompt"]}
    assert jobs.describe(running) == {**running.job, "workflow": asked}


def queue_one(journal: Journal, name: str, dice: random.Random, dead: int) -> None:
    """Queues a prompt, which a worker may have died with that never comes back."""
    entry = queued(journal, name, front=dice.random() < 0.1)
    if dice.random() < 0.2:
        journal.send(entry, f"{dead}.1")
        journal.lose(entry, dead)


def refuse_one(journal: Journal, slots: set[int], ran: dict[str, int]) -> None:
    """Has a worker refuse what it was sent, unless it is the last that has not."""
    for entry in journal.sent()[:1]:
        slot = int(entry.worker.partition(".")[0])
        if slots - set(entry.refused) - {slot}:
            ran[entry.prompt_id] -= 1
            journal.refuse(entry, slot, "No.")


def ask(journal: Journal, dice: random.Random, cancelled: set[str], forgotten: set[str]) -> None:
    """Has somebody cancel a prompt, or forget one that has ended."""
    waiting, done = journal.waiting(), journal.done()
    assert waiting == sorted(waiting, key=lambda entry: entry.turn)
    assert {entry.state for entry in waiting} <= {State.WAITING}
    if waiting and dice.random() < 0.4:
        name = dice.choice(waiting).prompt_id
        assert journal.cancel([name])
        cancelled.add(name)
    elif done:
        journal.forget([done[0].prompt_id])
        forgotten.add(done[0].prompt_id)


@pytest.mark.parametrize("seed", range(20))
def test_none_lost_none_doubled(seed: int):
    """Workers die at random moments, come back, refuse, and send records late.

    One stays dead, people cancel and forget, and there is always something that can be run.
    """
    dice = random.Random(seed)
    journal, slots = Journal(), range(1, dice.randint(2, 5))
    dead = len(slots) + 1
    lives = dict.fromkeys(slots, 1)
    late: list[tuple[Entry, str]] = []
    ran, ended = dict[str, int](), dict[str, int]()
    names = [f"p{number}" for number in range(60)]
    left = list(names)
    cancelled, forgotten = set[str](), set[str]()

    def keys() -> dict[int, str]:
        return {slot: f"{slot}.{life}" for slot, life in lives.items()}

    def end(entry: Entry, key: str) -> None:
        name = entry.prompt_id
        ended[name] = ended.get(name, 0) + journal.finish(entry, key, record(name))

    for _ in range(5000):
        event = dice.random()
        if left and event < 0.3:
            queue_one(journal, left.pop(), dice, dead)
        elif event < 0.6:
            free = [Free(slot) for slot, key in keys().items() if not journal.sent(key)]
            choice = next_run(journal.line(slots), free)
            if choice is not None:
                assert choice.slot != dead
                entry = journal.get(choice.prompt_id)
                assert entry is not None
                journal.send(entry, keys()[choice.slot])
                ran[entry.prompt_id] = ran.get(entry.prompt_id, 0) + 1
            elif len(free) == len(lives):
                assert not journal.waiting(), "all wait for nothing"
        elif event < 0.65:
            refuse_one(journal, set(slots), ran)
        elif event < 0.7:
            ask(journal, dice, cancelled, forgotten)
        elif event < 0.9:
            running = [(entry, entry.worker) for entry in journal.sent()] + late
            if running:
                end(*dice.choice(running))
        else:
            slot = dice.choice(slots)
            for entry in journal.sent(keys()[slot]):
                late.append((entry, entry.worker))
                if not journal.lose(entry, slot):
                    journal.fail(entry, "No.")
                    ended[entry.prompt_id] = ended.get(entry.prompt_id, 0) + 1
            lives[slot] += 1
            journal.joined(slot)
        if not left and not journal.remaining:
            break
    assert sorted([*journal.history(), *cancelled, *forgotten]) == sorted(names)
    once = dict.fromkeys(set(names) - cancelled, 1)
    assert {name: times for name, times in ended.items() if times} == once
    assert max(ran.values()) <= 2
