"""Waits that have an end, and that a cancel ends at any moment.

`asyncio.wait_for` of Python 3.10 and 3.11 loses a cancel that comes as its work has just ended:
who goes on in a loop then is never cancelled.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
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


class Calls:
    """Calls that may never return, one after another, in threads that hold up nothing.

    The program can end without them. While one goes on, none is begun behind it.
    """

    def __init__(self) -> None:
        self._last: asyncio.Future[Any] | None = None

    async def call(self, seconds: float, work: Callable[..., T], *arguments: Any) -> T:
        """Returns what work returns.

        Raises:
            TimeoutError: if it, or the one before, has not returned after so many seconds.
            RuntimeError: if the system has no thread left for it. The next one may have.
        """
        end = time.monotonic() + seconds
        while self._last is not None and not self._last.done():
            await _done_by(end, self._last)
        result: Future[T] = Future()
        result.set_running_or_notify_cancel()  # nobody can cancel it
        threading.Thread(target=_run, args=(result, work, *arguments), daemon=True).start()
        last = self._last = asyncio.wrap_future(result)
        last.add_done_callback(asyncio.Future.exception)  # looked at, even if nobody waits by then
        await _done_by(end, last)
        return last.result()


async def _done_by(end: float, future: asyncio.Future[Any]) -> None:
    await asyncio.wait({future}, timeout=max(0.0, end - time.monotonic()))
    if not future.done():
        raise asyncio.TimeoutError


def _run(result: Future[T], work: Callable[..., T], *arguments: Any) -> None:
    try:
        value = work(*arguments)
    except BaseException as error:  # noqa: BLE001 - it belongs to who waits
        result.set_exception(error)
    else:
        result.set_result(value)
