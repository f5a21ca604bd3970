"""ComfyUI's newer list of prompts, `/api/jobs`, for all workers together.

A finished prompt's description comes from the worker that ran it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from .journal import Entry, Journal, State
from .questions import refuse, whole_number

DETAILS = ("outputs", "execution_status", "workflow")
"""Only in the answer about a single prompt."""

RUNNING = {State.WAITING: "pending", State.SENT: "in_progress"}

STATES = {*RUNNING.values(), "completed", "failed", "cancelled"}

SORTED_BY = {"created_at": "create_time", "execution_duration": ""}


def describe(entry: Entry) -> dict[str, Any]:
    """Returns what ComfyUI would say of one prompt."""
    if entry.state is State.DONE and entry.job is not None:
        # The prompt as it was asked for, without what the farm has changed for its worker.
        workflow = {**_part(entry.job, "workflow"), "prompt": entry.body["prompt"]}
        return {**entry.job, "workflow": workflow}
    extra = entry.item()[3]
    workflow = _part(_part(extra, "extra_pnginfo"), "workflow")
    job = {
        "id": entry.prompt_id,
        "status": RUNNING.get(entry.state, "failed"),
        "priority": entry.number,
        "create_time": entry.created,
        "outputs_count": 0,
        "previewable_outputs_count": 0,
        "workflow_id": workflow.get("id"),
    }
    if entry.state is State.DONE:
        job["execution_error"] = entry.record["status"]["messages"][-1][1]
        job["outputs"] = {}
        job["execution_status"] = entry.record["status"]
    job["workflow"] = {"prompt": entry.body["prompt"], "extra_data": extra}
    return {key: value for key, value in job.items() if value is not None}


def page(journal: Journal, question: Mapping[str, str]) -> dict[str, Any]:
    """Returns a part of the list.

    Args:
        journal: of all prompts.
        question: ComfyUI's: "status" (with commas), "workflow_id", "sort_by", "sort_order",
            "limit" and "offset".

    Raises:
        WrongQuestionError: if a number or a name cannot be used.
    """
    limit, offset = (whole_number(question, name) for name in ("limit", "offset"))
    if limit is not None and limit < 1:
        refuse("limit", limit, "1 or more")
    offset = max(0, offset or 0)
    order = _one_of(question, "sort_order", ("desc", "asc"))
    by = _one_of(question, "sort_by", tuple(SORTED_BY))
    found = list(_chosen(journal, question))
    found.sort(key=_sort_key(SORTED_BY[by]), reverse=order == "desc")
    part = found[offset:] if limit is None else found[offset : offset + limit]
    return {
        "jobs": [{k: v for k, v in job.items() if k not in DETAILS} for job in part],
        "pagination": {
            "offset": offset,
            "limit": limit,
            "total": len(found),
            "has_more": offset + len(part) < len(found),
        },
    }


def _chosen(journal: Journal, question: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    states = {state.strip().lower() for state in question.get("status", "").split(",")} - {""}
    if unknown := states - STATES:
        refuse("status", ", ".join(sorted(unknown)), f"some of {', '.join(sorted(STATES))}")
    entries: list[Entry] = []
    for state, listed in ((State.SENT, journal.sent), (State.WAITING, journal.waiting)):
        if not states or RUNNING[state] in states:
            entries += listed()
    if not states or states - set(RUNNING.values()):
        entries += journal.done()  # thousands, which the editor seldom asks for
    workflow = question.get("workflow_id")
    for job in map(describe, entries):
        if states and job["status"] not in states:
            continue
        if not workflow or job.get("workflow_id") == workflow:
            yield job


def _one_of(question: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    given = question.get(name, choices[0]).lower()
    if given not in choices:
        refuse(name, given, f"one of {', '.join(choices)}")
    return given


def _part(whole: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Returns an object inside of what a client sent, which may be anything."""
    part = whole.get(name)
    return part if isinstance(part, Mapping) else {}


def _sort_key(name: str) -> Any:
    def created(job: dict[str, Any]) -> int:
        return job.get("create_time") or 0

    def duration(job: dict[str, Any]) -> int:
        return (job.get("execution_end_time") or 0) - (job.get("execution_start_time") or 0)

    return created if name else duration
