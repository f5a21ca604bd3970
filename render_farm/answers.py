"""What clients are told about prompts that they queue."""

from typing import Any

from .journal import Entry

Answer = tuple[int, Any]
"""HTTP status and JSON."""

OK = 200

FAILED = 500


def refused(kind: str, message: str) -> dict[str, Any]:
    """Returns a refusal in ComfyUI's form."""
    error = {"type": kind, "message": message, "details": "", "extra_info": {}}
    return {"error": error, "node_errors": {}}


NO_WORKER = refused(
    "no_worker",
    "No ComfyUI is ready. Got none that answers, need one. Try again in a minute; /wanduet/farm "
    "says what they do.",
)


def in_words(status: int, answer: Any) -> Answer:
    """Returns why a worker has refused a prompt, also where it tripped over it without a word."""
    if status < FAILED:
        return status, answer
    message = (
        f"ComfyUI failed while it checked the prompt. Got its status {status}, need a workflow "
        "that was exported in API format. Look into the workers' logs."
    )
    return 400, refused("invalid_prompt", message)


def queued(entry: Entry, answer: Any) -> dict[str, Any]:
    """Returns what a client is told whose prompt is in line."""
    errors = answer.get("node_errors", {}) if isinstance(answer, dict) else {}
    return {"prompt_id": entry.prompt_id, "number": entry.number, "node_errors": errors}


def refusal(answer: Any) -> str:
    """Returns why every worker has refused a prompt."""
    error = answer.get("error") if isinstance(answer, dict) else None
    said = error.get("message") if isinstance(error, dict) else error
    return (
        f"Every worker that could run the prompt finds it invalid. Got '{said or 'no reason'}', "
        "need the same model and input files for all workers. Put them there, then queue it again."
    )
