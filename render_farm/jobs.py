"""ComfyUI's newer list of prompts, `/api/jobs`, for all workers together.

A finished prompt's description comes from the worker that ran it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from .journal import Entry, Journal, State

DETAILS = ("outputs", "execution_status", "workflow")
"""Only in the answer about a single prompt."""

RUNNING = {State.WAITING: "pending", State.SENT: "in_progress"}

SORTED_BY = {"created_at": "create_time", "execution_duration": ""}


def describe(entry: Entry) -> dict[str, Any]:
    """Returns what ComfyUI would say of one prompt."""
    if entry.state is State.DONE and entry.job is not None:
        return entry.job
    extra = entry.item()[3]
    workflow = (extra.get("extra_pnginfo") or {}).get("workflow") or {}
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
        ValueError: if a number or a name cannot be used.
    """
    limit = int(question["limit"]) if "limit" in question else None
    offset = max(0, int(question.get("offset", 0)))
    order, by = question.get("sort_order", "desc").lower(), question.get("sort_by", "created_at")
    if (
        order not in ("asc", "desc")
        or by.lower() not in SORTED_BY
        or (limit is not None and limit < 1)
    ):
        raise ValueError("sort_by, sort_order or limit cannot be used")
    entries = [*journal.sent(), *journal.waiting(), *journal.done()]
    found = list(_chosen((describe(entry) for entry in entries), question))
    found.sort(key=_sort_key(SORTED_BY[by.lower()]), reverse=order == "desc")
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


def _chosen(jobs: Iterable[dict[str, Any]], question: Mapping[str, str]) -> Iterable[Any]:
    states = {state.strip().lower() for state in question.get("status", "").split(",")} - {""}
    workflow = question.get("workflow_id")
    for job in jobs:
        if states and job["status"] not in states:
            continue
        if not workflow or job.get("workflow_id") == workflow:
            yield job


def _sort_key(name: str) -> Any:
    def created(job: dict[str, Any]) -> int:
        return job.get("create_time") or 0

    def duration(job: dict[str, Any]) -> int:
        return (job.get("execution_end_time") or 0) - (job.get("execution_start_time") or 0)

    return created if name else duration
