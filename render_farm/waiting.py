"""Waits that have an end, and that a cancel ends at any moment.

`asyncio.wait_for` of Python 3.10 and 3.11 loses a cancel that comes as its work has just ended:
who goes on in a loop then is never cancelled.
"""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

AGAIN_SECONDS = 1.0

T = TypeVar("T")


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Returns what work returns.

    Raises:
        TimeoutError: if it has not ended after so many seconds; it is cancelled then.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            raise asyncio.TimeoutError
        return task.result()
    finally:
        task.cancel()


async def end_tasks(tasks: Iterable[asyncio.Future[Any]], again: float = AGAIN_SECONDS) -> None:
    """Cancels tasks until they have ended.

    Args:
        tasks: whose results and errors nobody needs any more.
        again: seconds after which one that goes on is cancelled anew.
    """
    left = {each for each in tasks if not each.done()}
    while left:
        for task in left:
            task.cancel()
        done, left = await asyncio.wait(left, timeout=again)
        for task in done:
            if not task.cancelled():
                task.exception()  # or asyncio would complain that nobody looked at it
