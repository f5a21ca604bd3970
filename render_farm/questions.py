"""What clients ask, read and checked: a value that cannot be used is refused in words.

ComfyUI itself answers most of these with an error of the server (500), or trips over them later.
"""

import json
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn

from aiohttp import ClientError, web

from .answers import refused

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PROMPT_ID = re.compile(r"(?=.*[^.])[\w.:-]{1,200}", re.ASCII)
"""What can stand in the path of an address. Newer ComfyUIs want a UUID, and say so."""

MOST_JSON = 100 << 20
"""Bytes of a question, as much as ComfyUI itself takes; no more is read. While it is understood,
nothing else is done."""

SHOWN = 60
"""Characters of a wrong value that are repeated."""


class WrongQuestionError(Exception):
    """A request cannot be used. The message says what is needed."""

    def __init__(self, message: str, kind: str) -> None:
        """Takes what is said, and ComfyUI's name for such an error."""
        super().__init__(message)
        self.kind = kind


@web.middleware
async def in_words(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers a request that cannot be used as ComfyUI answers those that it checks."""
    try:
        return await handler(request)
    except WrongQuestionError as error:
        if not request.path.startswith("/api/jobs"):
            return web.json_response(refused(error.kind, str(error)), status=400)
        return web.json_response({"error": str(error)}, status=400)


def whole_number(query: Mapping[str, str], name: str) -> int | None:
    """Returns a number that an address's question gives, None without one.

    Raises:
        WrongQuestionError: if it is none.
    """
    given = query.get(name)
    if given is None:
        return None
    try:
        return int(given)
    except ValueError:
        refuse(name, given, "a whole number")


async def json_object(request: web.Request, *, lenient: bool = False) -> dict[str, Any]:
    """Returns a request's JSON object, {} if there is no body.

    Args:
        request: of a client.
        lenient: whether a body that is no JSON is as good as none, as ComfyUI's `/interrupt` has
            it.

    Raises:
        WrongQuestionError: if it is something else.
    """
    try:
        text = await request.clone(client_max_size=MOST_JSON).text()
        # Python writes other numbers as NaN and Infinity, at which browsers stop reading.
        numbers: dict[str, Any] = {"parse_float": _finite, "parse_constant": _finite}
        body = json.loads(text, **numbers) if text.strip() else {}
    except web.HTTPRequestEntityTooLarge:
        refuse("the body", "more", f"at most {MOST_JSON >> 20} MiB")
    except (ValueError, LookupError, RecursionError, ClientError) as error:
        if not lenient:
            refuse("the body", str(error), "a JSON object")
        body = {}
    if not isinstance(body, dict):
        refuse("the body", body, "a JSON object")
    return body


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"the number {number[:SHOWN]}")
    return value


def text(body: Mapping[str, Any], name: str) -> str:
    """Returns a text, "" without one.

    Raises:
        WrongQuestionError: if it is something else.
    """
    value = body.get(name)
    if value is not None and not _is_text(value):
        refuse(name, value, "a text")
    return "" if value is None else str(value)


def texts(body: Mapping[str, Any], name: str) -> list[str]:
    """Returns a list of texts, [] without one.

    Raises:
        WrongQuestionError: if it is something else.
    """
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(map(_is_text, value)):
        refuse(name, value, "a list of texts")
    return [str(each) for each in value]


def _is_text(value: Any) -> bool:
    """Numbers, too: ComfyUI takes them for an id, and makes a text of it."""
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)


def flag(body: Mapping[str, Any], name: str) -> bool:
    """Returns true or false, false without either.

    Raises:
        WrongQuestionError: if it is something else.
    """
    value = body.get(name)
    if value not in (None, True, False):
        refuse(name, value, "true or false")
    return bool(value)


def checked_prompt(body: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a request as workers can have it: ids are texts, and every node has its inputs.

    A prompt that a worker would not survive, or whose description nobody could read, is refused.
    A ComfyUI queues a node that has no inputs, not even empty ones, if no output needs it. Then
    it stops at it, and runs nothing any more.

    Raises:
        WrongQuestionError: if it is one.
    """
    nodes = body.get("prompt")
    if nodes is None:
        refuse("prompt", nodes, "the nodes of a workflow in API format", "no_prompt")
    if not isinstance(nodes, dict):
        refuse("prompt", nodes, "the nodes of a workflow in API format, by their ids")
    for number, node in nodes.items():
        if not isinstance(node, dict) or not isinstance(_inputs(node), dict):
            refuse(f"node {number}", node, "an object with 'class_type' and 'inputs'")
        if not isinstance(node.get("class_type", ""), str):
            refuse(f"class_type of node {number}", node["class_type"], "a text")
    names = ("prompt_id", "client_id")
    ids = {name: given for name in names if (given := text(body, name))}
    if (prompt_id := ids.get("prompt_id")) and not PROMPT_ID.fullmatch(prompt_id):
        refuse("prompt_id", prompt_id, "up to 200 letters, digits, '-', '_', '.' or ':'")
    flag(body, "front")
    texts(body, "partial_execution_targets")
    extra = body.get("extra_data")
    if extra is not None and not isinstance(extra, dict):
        refuse("extra_data", extra, "an object")
    if "number" in body:
        _check_place(body["number"])
    whole = {number: {**node, "inputs": _inputs(node)} for number, node in nodes.items()}
    return {**body, **ids, "prompt": whole}


def _inputs(node: Mapping[str, Any]) -> Any:
    inputs = node.get("inputs")
    return {} if inputs is None else inputs


def _check_place(number: Any) -> None:
    try:
        finite = math.isfinite(float(number))
    except (TypeError, ValueError, OverflowError):
        finite = False
    if not finite:
        refuse("number", number, "a number")


def refuse(name: str, given: Any, needed: str, kind: str = "invalid_request") -> NoReturn:
    """Says that a value cannot be used.

    Raises:
        WrongQuestionError: always.
    """
    shown = repr(given)
    shown = shown if len(shown) <= SHOWN else shown[:SHOWN] + "..."
    text = f"The request cannot be used. Got {shown} for {name}, need {needed}. Correct it."
    raise WrongQuestionError(text, kind)
