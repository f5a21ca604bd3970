"""Server routes that the graph editor asks: what a model file is, and a core scheduler's sigmas.

Answers are JSON. A question without an answer gets {"error": text} with status 200, because a
browser reports any other status as an error of the page.
"""

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from ..wan_model.config import OFFICIAL
from ..wan_model.errors import WanError
from . import _comfy_routes

MODEL_FOLDERS = ("diffusion_models",)
MAX_STEPS = 10_000

Query = Mapping[str, str]


def register_routes() -> None:
    """Adds the routes to ComfyUI's server, if there is one. To be called once, at start."""
    table = _comfy_routes.route_table()
    if table is not None:
        table.get("/wanduet/describe")(_answering(describe))
        table.get("/wanduet/sigmas")(_answering(sigmas))


def describe(query: Query) -> dict[str, Any]:
    """Returns what a model file is and the official settings of its kind.

    Args:
        query: "folder" and "name" as ComfyUI lists them. No other file is opened.

    Raises:
        LookupError: if ComfyUI does not list the file.
        WanError: if it is not a Wan2.2 transformer.
    """
    from ..wan_model.loading import detect

    folder, name = query.get("folder", ""), query.get("name", "")
    path = _comfy_routes.listed_file(folder, name) if folder in MODEL_FOLDERS else None
    if path is None:
        raise LookupError(f"The model file is unknown. Got {name!r} in {folder!r}. Refresh lists.")
    found = detect(path)
    official = OFFICIAL[found.kind]
    return {
        "kind": found.kind,
        "label": found.label,
        "steps": official.steps,
        "shift": official.shift,
        "boundary": official.boundary,
        "cfg_high": official.cfg_high,
        "cfg_low": official.cfg_low,
        "fps": official.fps,
    }


def sigmas(query: Query) -> dict[str, Any]:
    """Returns the schedule of a core scheduler, cut to its last steps when denoise is below 1.

    Args:
        query: "scheduler", "steps", "shift" and "denoise" (0..1).

    Raises:
        ValueError: if a number or the scheduler's name cannot be used.
    """
    steps, shift = int(query.get("steps", "")), float(query.get("shift", ""))
    denoise, scheduler = float(query.get("denoise", "1")), query.get("scheduler", "")
    if scheduler not in _comfy_routes.scheduler_names():
        raise ValueError(f"The scheduler is unknown. Got {scheduler!r}, need one of ComfyUI's.")
    if not 0 < shift < math.inf:
        raise ValueError(f"The shift cannot be used. Got {shift:g}, need a number above 0.")
    if not 0 <= denoise <= 1:
        raise ValueError(f"The denoise cannot be used. Got {denoise:g}, need 0 to 1.")
    if denoise == 0:
        return {"sigmas": []}
    total = steps if denoise > 0.9999 else int(steps / denoise)
    if not 1 <= steps <= total <= MAX_STEPS:
        raise ValueError(f"The steps cannot be used. Got {total}, need 1 to {MAX_STEPS}.")
    return {"sigmas": _comfy_routes.core_schedule(scheduler, total, shift)[-(steps + 1) :]}


def _answering(
    answer: Callable[[Query], dict[str, Any]],
) -> Callable[[web.Request], Any]:
    """Makes a request handler that computes its answer off the server's event loop."""

    async def handle(request: web.Request) -> web.Response:
        try:
            result = await asyncio.to_thread(answer, request.query)
        except (WanError, LookupError, ValueError, OSError) as error:
            result = {"error": str(error)}
        return web.json_response(result)

    return handle
