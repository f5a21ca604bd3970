"""Server routes that the graph editor asks: what a model file is, and what a run will do.

Answers are JSON. A question without an answer gets {"error": text} with status 200, because a
browser reports any other status as an error of the page.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from aiohttp import web
from torch import Tensor

from ..wan_model.config import OFFICIAL
from ..wan_model.errors import WanError
from ..wan_model.loading import detect
from ..wan_model.sampling import check_sigmas, count_high_noise_steps, official_timestep, trim_steps
from ._comfy.host import runtime
from ._comfy.host.listener import remember_client, running_prompt
from ._comfy.sampling import samplers

logger = logging.getLogger(__name__)

MODEL_FOLDER = "diffusion_models"
MAX_STEPS = 10_000
"""Of a schedule before denoise cuts it: some 30 ms of work."""

Query = Mapping[str, str]


def register_routes() -> None:
    """Adds the routes to ComfyUI's server, if there is one. To be called once, at start."""
    table = runtime.route_table()
    if table is not None:
        table.get("/wanduet/describe")(_answering(describe))
        table.get("/wanduet/schedule")(_answering(schedule))
        table.get("/wanduet/hello")(_answering(hello))


def describe(query: Query) -> dict[str, Any]:
    """Returns what a model file is and the official settings of its kind.

    Args:
        query: "folder" (must be "diffusion_models") and "name" as our loaders list it. No other
            file is opened.

    Raises:
        LookupError: if the loaders do not list the file, or it is not a diffusion model.
        WanError: if it is not of Wan 2.2.
    """
    folder, name = query.get("folder", ""), query.get("name", "")
    path = runtime.listed_file(folder, name) if folder == MODEL_FOLDER else None
    if path is None:
        raise LookupError(f"The model file {name!r} is not in {MODEL_FOLDER}. Choose another one.")
    found = detect(path)
    if found.kind is None:
        raise LookupError(
            f"{name!r} is not a diffusion model. Got {found.label}. Choose another one."
        )
    official = OFFICIAL[found.kind]
    return {
        "kind": found.kind,
        "label": found.label,
        "expert": found.expert,
        "steps": official.steps,
        "shift": official.shift,
        "boundary": official.boundary,
        "cfg_high": official.cfg_high,
        "cfg_low": official.cfg_low,
        "fps": official.fps,
    }


def hello(query: Query) -> dict[str, Any]:
    """Notes that a client shows what we send while sampling; "client_id" as for the queue.

    Returns:
        "prompt_id" of the run that is on, and the id of the "workflow" that it is of.
    """
    remember_client(query.get("client_id", ""))
    return running_prompt()


def schedule(query: Query) -> dict[str, Any]:
    """Returns what the sampler node will do with these inputs.

    Args:
        query: the node's inputs by their names, with official values filled in: "sampler",
            "scheduler", "steps", "shift", "denoise" (0..1), "start_at_step", "end_at_step" and
            "return_with_leftover_noise"; "boundary" only where there are two experts; "levels",
            noise levels with commas between them in the place of a schedule, "start_steps": the
            first steps that have a model of their own.

    Returns:
        "full": every sigma of the schedule; "first": the first step that runs; "sigmas" and whole
        "timesteps" of the steps that run; "start", "high" and "low": how many of them the model
        of the first steps and each expert gets.

    Raises:
        ValueError: if a number or a name cannot be used.
    """
    full = _full_schedule(query)
    first, end = int(query.get("start_at_step", "")), int(query.get("end_at_step", ""))
    if first < 0 or end < 0:
        raise ValueError(f"The step range cannot be used. Got {first} to {end}, need 0 or more.")
    sigmas = trim_steps(full, first, end, query.get("return_with_leftover_noise") != "enable")
    boundary = query.get("boundary")
    steps = max(0, len(sigmas) - 1)
    high = 0 if boundary is None else count_high_noise_steps(sigmas, float(boundary))
    asked = max(0, int(query.get("start_steps", "0")) - first)
    start = min(asked, steps if boundary is None else high)
    high = max(0, high - start)
    return {
        "full": full.tolist(),
        "first": first,
        "sigmas": sigmas.tolist(),
        "timesteps": [official_timestep(sigma) for sigma in sigmas[:-1].tolist()],
        "start": start,
        "high": high,
        "low": steps - high - start,
    }


def _full_schedule(query: Query) -> Tensor:
    """Returns the sigmas fp32 [N + 1] before the step range is cut.

    Raises:
        ValueError: if a number or a name cannot be used.
    """
    sampler, scheduler = query.get("sampler", ""), query.get("scheduler", "")
    steps, shift = int(query.get("steps", "")), float(query.get("shift", ""))
    denoise = float(query.get("denoise", ""))
    if sampler not in samplers.sampler_names() or scheduler not in samplers.scheduler_names():
        raise ValueError(f"Sampler {sampler!r} or scheduler {scheduler!r} is unknown.")
    if not 0 < shift < math.inf:
        raise ValueError(f"The shift cannot be used. Got {shift:g}, need a number above 0.")
    if not 0 <= denoise <= 1:
        raise ValueError(f"The denoise cannot be used. Got {denoise:g}, need 0 to 1.")
    if not (steps >= 1 and steps <= MAX_STEPS * (denoise or 1)):
        raise ValueError(f"The steps cannot be used. Got {steps}, need 1 to {MAX_STEPS} * denoise.")
    levels = [float(level) for level in query.get("levels", "").split(",") if level]
    if levels:
        check_sigmas(torch.tensor(levels))
    sigmas = samplers.make_schedule(sampler, scheduler, steps, shift, denoise, levels or None)
    if not sigmas.isfinite().all():
        raise ValueError(
            f"The shift cannot be used. Got {shift:g}, need one that gives finite sigmas."
        )
    return sigmas


def _answering(answer: Callable[[Query], dict[str, Any]]) -> Callable[[web.Request], Any]:
    """Makes a request handler that finds its answer off the server's event loop."""

    async def handle(request: web.Request) -> web.Response:
        try:
            result = await asyncio.to_thread(answer, request.query)
        except (WanError, LookupError, ArithmeticError, ValueError, OSError) as error:
            logger.debug("No answer to %s", request.rel_url, exc_info=True)
            result = {"error": str(error)}
        return web.json_response(result)

    return handle
