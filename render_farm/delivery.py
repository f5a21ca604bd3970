"""Brings a prompt to a worker once, whatever becomes of the connection."""

import asyncio
from typing import Any

from .worker import Worker, WorkerGoneError

RETRY_SECONDS = 0.5


async def post_once(worker: Worker, body: dict[str, Any]) -> tuple[int, Any]:
    """Posts a prompt, again if nobody knows whether it has arrived and it has not.

    Returns:
        Status and answer; 200 and None if it has arrived but its answer has not.

    Raises:
        WorkerGoneError: if the worker has ended.
    """
    while True:
        try:
            return await worker.post_prompt(body)
        except WorkerGoneError:
            await asyncio.sleep(RETRY_SECONDS)
            if await _knows(worker, body["prompt_id"]):
                return 200, None


async def taken_back(worker: Worker, prompt_id: str) -> bool:
    """Takes a prompt out of a worker's line. Returns False if it may have been started."""
    try:
        return await worker.take_back(prompt_id)
    except WorkerGoneError:
        return not worker.alive  # it has died with it, or a survey will tell


async def _knows(worker: Worker, prompt_id: str) -> bool:
    while True:
        try:
            queued = await worker.queued()
            return prompt_id in queued or await worker.record(prompt_id) is not None
        except WorkerGoneError:
            if not worker.alive:
                raise
            await asyncio.sleep(RETRY_SECONDS)
