"""What waits for a client or a worker can be ended at any moment, and ends what hangs only."""

import asyncio
import threading
from contextlib import suppress
from typing import Any, cast

import pytest

from render_farm import clients as clients_module
from render_farm.clients import Client
from render_farm.waiting import Calls, end_tasks, within

from .fake_comfyui import in_own_loop


def test_a_cancel_at_the_moment_of_an_end():
    """It is not lost: whoever goes on in a loop then could not be ended any more."""

    class Socket:
        prepared, closed = True, False

        async def send_str(self, _: str) -> None:
            pass

    async def story() -> None:
        for turns in range(6):
            client, gate, changed = Client("a"), asyncio.Event(), asyncio.Event()
            client.socket = cast("Any", Socket())

            async def listen(client: Client = client, gate: asyncio.Event = gate) -> None:
                await gate.wait()
                await client.forward("hello")
                await asyncio.Event().wait()

            async def look(changed: asyncio.Event = changed) -> None:
                await within(300, changed.wait())
                await asyncio.Event().wait()

            tasks = {asyncio.create_task(listen()), asyncio.create_task(look())}
            for _ in range(3):
                await asyncio.sleep(0)
            gate.set()
            changed.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            assert not (await asyncio.wait(tasks, timeout=60))[1], f"after {turns} turns"

    in_own_loop(story())


def test_who_loses_a_cancel_is_ended():
    async def story() -> None:
        async def deaf() -> None:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            await asyncio.Event().wait()

        tasks = [asyncio.create_task(deaf()) for _ in range(2)]
        await asyncio.sleep(0)
        await end_tasks(tasks, 0.01)
        assert all(task.done() for task in tasks)

    in_own_loop(story())


def test_a_call_that_found_no_thread(monkeypatch: pytest.MonkeyPatch):
    """The next ones do not wait for it."""

    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def story() -> None:
        calls = Calls()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", none_left)
            with pytest.raises(RuntimeError):
                await calls.call(300, int, "5")
        assert await calls.call(300, int, "5") == 5

    in_own_loop(story())


def test_a_client_that_takes_little(monkeypatch: pytest.MonkeyPatch):
    """However long one message takes: as long as it takes some of it, it is not let go."""
    monkeypatch.setattr(clients_module, "SEND_SECONDS", 0.0)

    class Transport(asyncio.WriteTransport):
        looks, aborted = 0, False

        def __init__(self, stuck_after: int) -> None:
            self.stuck_after = stuck_after

        def get_write_buffer_size(self) -> int:
            self.looks += 1
            return 1_000_000 - min(self.looks, self.stuck_after)

        def abort(self) -> None:
            self.aborted = True

    class Socket:
        prepared, closed = True, False

        async def send_bytes(self, _: bytes) -> None:
            while transport.looks < 50:
                await asyncio.sleep(0)

    async def story() -> None:
        client = Client("a", transport)
        client.socket = cast("Any", Socket())
        await client.forward(b"much")

    for stuck_after, let_go in ((1_000_000, False), (20, True)):
        transport = Transport(stuck_after)
        in_own_loop(story())
        assert transport.aborted == let_go
