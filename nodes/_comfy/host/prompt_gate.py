"""Looks at prompts before ComfyUI does, and refuses those with mistakes that we can name.

ComfyUI's own check of a node sees neither other nodes nor files, and repeats a sentence at every
input that it reads.
"""

import asyncio
import json
import logging
import sys
from collections.abc import Callable
from typing import Any

from aiohttp import web
from server import PromptServer

import nodes

logger = logging.getLogger(__name__)

PATHS = ("/prompt", "/api/prompt")
OURS = "WanDuet"
REFUSED = "wanduet.refused"
"""Event with the sentences for the client that queued the prompt."""

LONGEST = 1000
"""Characters of one sentence for the client."""

Problems = list[dict[str, str]]
"""Each {"node_id", "input", "message"}."""

Unlisted = Callable[[str, str, Any], str | None]


def add_gate(check: Callable[[dict[str, Any], set[str]], Problems], unlisted: Unlisted) -> None:
    """Puts a check in front of the queue, if there is a server. To be called once, at start.

    Args:
        check: takes a prompt in API format and the ids of its nodes that have an effect.
        unlisted: what to say of a value that ComfyUI does not find in its list, by class, input
            and value; None for ComfyUI's own words.
    """
    server = getattr(PromptServer, "instance", None)
    if server is None or server.app.frozen:
        return

    @web.middleware
    async def gate(request: web.Request, handler: Any) -> web.StreamResponse:
        if request.method != "POST" or request.path not in PATHS:
            return await handler(request)
        body = await _body(request)
        prompt = body.get("prompt")
        if not isinstance(prompt, dict) or not _has_ours(prompt):
            return await handler(request)
        problems = await asyncio.to_thread(_checked, check, prompt, body)
        if problems:
            logger.warning("Refused: %s", "; ".join(each["message"] for each in problems))
            answer: web.StreamResponse = web.json_response(_refusal(prompt, problems), status=400)
        else:
            answer = await handler(request)
            problems = _found_by_core(answer, unlisted)
        if problems and body.get("client_id"):
            server.send_sync(REFUSED, {"problems": problems}, body["client_id"])
        return answer

    server.app.middlewares.append(gate)


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except (ValueError, LookupError, RecursionError):
        return {}  # ComfyUI will say it, with a status of its own
    return body if isinstance(body, dict) else {}


def _has_ours(prompt: dict[str, Any]) -> bool:
    whole = all(isinstance(node, dict) for node in prompt.values())
    return whole and any(str(n.get("class_type", "")).startswith(OURS) for n in prompt.values())


def _checked(
    check: Callable[[dict[str, Any], set[str]], Problems],
    prompt: dict[str, Any],
    body: dict[str, Any],
) -> Problems:
    """Returns the mistakes; none if looking for them fails, for the run has its own checks."""
    try:
        return check(prompt, set(_outputs(prompt, body.get("partial_execution_targets"))))
    except Exception:  # whatever it is, it must not keep a prompt from running
        logger.warning("The prompt could not be checked beforehand.", exc_info=True)
        return []


def _outputs(prompt: dict[str, Any], targets: Any) -> list[str]:
    """Returns the nodes for which the prompt is run."""
    classes = _classes()
    found = [
        node_id
        for node_id, node in prompt.items()
        if getattr(classes.get(node.get("class_type")), "OUTPUT_NODE", False)
    ]
    chosen = isinstance(targets, list) and targets
    return [each for each in found if each in targets] if chosen else found


def lazy_inputs(kind: str) -> set[str]:
    """Returns the inputs of a class that it may leave without running what is connected."""
    return {
        name
        for name, given in _inputs(kind).items()
        if len(given) > 1 and isinstance(given[1], dict) and given[1].get("lazy")
    }


def inputs_and_outputs(kind: str) -> tuple[dict[str, Any], int] | None:
    """Returns a class's input types by name, and its number of outputs; None if there is none."""
    node = _classes().get(kind)
    if node is None:
        return None
    found = node.RETURN_TYPES
    # Some packs' types of tuples answer for every number.
    outputs = len(found) if type(found) in (tuple, list) else sys.maxsize
    return {name: given[0] for name, given in _inputs(kind).items()}, outputs


def node_class(kind: str) -> Any:
    """Returns a node's class by its id.

    Raises:
        KeyError: if there is none.
    """
    return _classes()[kind]


def _inputs(kind: str) -> dict[str, Any]:
    """Returns how a class describes its inputs, by name."""
    node = _classes().get(kind)
    groups = {} if node is None else node.INPUT_TYPES()
    return {**groups.get("required", {}), **groups.get("optional", {})}


def _classes() -> dict[str, Any]:
    return nodes.NODE_CLASS_MAPPINGS  # pyright: ignore[reportAttributeAccessIssue]


def _refusal(prompt: dict[str, Any], problems: Problems) -> dict[str, Any]:
    """Returns an answer of the form that ComfyUI gives for a prompt that it refuses."""
    errors: dict[str, Any] = {}
    for problem in problems:
        node_id, name = problem["node_id"], problem["input"]
        node = errors.setdefault(
            node_id,
            {"errors": [], "dependent_outputs": [], "class_type": prompt[node_id]["class_type"]},
        )
        node["errors"].append(
            {
                "type": "custom_validation_failed",
                "message": "Custom validation failed for node",
                "details": f"{name} - {problem['message']}",
                "extra_info": {"input_name": name},
            }
        )
    error = {
        "type": "prompt_outputs_failed_validation",
        "message": "Prompt outputs failed validation",
        "details": "",
        "extra_info": {},
    }
    return {"error": error, "node_errors": errors}


def _found_by_core(answer: web.StreamResponse, unlisted: Unlisted) -> Problems:
    """The same, of an answer that the client gets whatever becomes of this."""
    try:
        return _core_problems(answer, unlisted)
    except (AttributeError, LookupError, TypeError, ValueError):
        logger.debug("ComfyUI's answer is of an unknown form.", exc_info=True)
        return []


def _core_problems(answer: web.StreamResponse, unlisted: Unlisted) -> Problems:
    """Returns what ComfyUI itself found wrong with nodes of ours."""
    if not isinstance(answer, web.Response) or answer.content_type != "application/json":
        return []
    found = json.loads(answer.text or "{}").get("node_errors") or {}
    return [
        {
            "node_id": node_id,
            "input": str(error.get("extra_info", {}).get("input_name", "")),
            "message": _cut(_unlisted(node, error, unlisted) or _words(error)),
        }
        for node_id, node in found.items()
        if str(node.get("class_type", "")).startswith(OURS)
        for error in node["errors"]
    ]


def _unlisted(node: dict[str, Any], error: dict[str, Any], say: Unlisted) -> str | None:
    if error.get("type") != "value_not_in_list":
        return None
    known = error["extra_info"]
    return say(node["class_type"], known["input_name"], known["received_value"])


def _cut(text: str) -> str:
    """Returns a sentence; ComfyUI repeats whole values, of any length."""
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."


def _words(error: dict[str, Any]) -> str:
    name = error.get("extra_info", {}).get("input_name", "")
    details = str(error.get("details", ""))
    if error.get("type") == "custom_validation_failed":
        return details.removeprefix(f"{name} - ")
    message = str(error.get("message", ""))
    return f"{name}: {message}" if details == name else f"{message}. {details}"
