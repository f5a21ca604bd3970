"""Offers the check to the queue and to the graph editor."""

import asyncio
from dataclasses import asdict
from typing import Any

from aiohttp import web

from .._comfy.host import prompt_gate, runtime
from ..model_files import missing_file
from ..run_plan import automatic, plan_lines
from .check import SAMPLER, find_problems
from .graph import Graph
from .known_files import DIFFUSION
from .type_rules import NodeKind

WRONG = (ArithmeticError, AttributeError, LookupError, OSError, RecursionError)
WRONG += (TypeError, ValueError)
"""What looking at a workflow raises that is none, or has values of wrong types."""

FILES = {"WanDuetExpertLoader": DIFFUSION, "WanDuetLoraPair": "loras"}
"""Folders of the nodes of ours whose files ComfyUI looks for, since they have several."""


def register_checks() -> None:
    """Checks prompts before they are queued, and workflows that are being edited."""
    prompt_gate.add_gate(_check, _unlisted)
    table = runtime.route_table()
    if table is not None:
        table.post("/wanduet/check")(_answer)


def _check(prompt: dict[str, Any], outputs: set[str]) -> prompt_gate.Problems:
    among = Graph(prompt).upstream(list(outputs), prompt_gate.lazy_inputs)
    return [asdict(problem) for problem in find_problems(prompt, _kind, among)]


def _unlisted(kind: str, name: str, value: Any) -> str | None:
    """Says of a file what the loaders of one file say."""
    is_file = name.startswith("lora_") or name.endswith("_model")
    return missing_file(FILES[kind], value) if kind in FILES and is_file else None


def _kind(name: str) -> NodeKind | None:
    found = prompt_gate.inputs_and_outputs(name)
    return None if found is None else NodeKind(*found)


async def _answer(request: web.Request) -> web.Response:
    """Answers {"prompt": API format}.

    With {"problems": [{"node_id", "input", "message"}], "plans": {id of a sampler: [line]},
    "automatic": {id of a sampler: what its widgets mean that are 0 or "auto"}}.
    """
    try:
        prompt = (await request.json())["prompt"]
        return web.json_response(await asyncio.to_thread(_found, prompt))
    except WRONG as error:
        return web.json_response({"error": str(error)})


def _found(prompt: dict[str, Any]) -> dict[str, Any]:
    ids = Graph(prompt).of_kind(SAMPLER)
    plans = {node_id: plan_lines(prompt, node_id) for node_id in ids}
    known = {node_id: automatic(prompt, node_id) for node_id in ids}
    problems = [asdict(problem) for problem in find_problems(prompt, _kind)]
    return {"problems": problems, "plans": plans, "automatic": known}
