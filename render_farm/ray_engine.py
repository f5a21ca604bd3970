"""Workers as Ray actors, each with a GPU of a cluster and a ComfyUI on that GPU's computer.

Ray finds a free GPU, and tells when an actor, its computer or its GPU's process is gone. An actor
belongs to this program: Ray ends it when this program ends, and ComfyUI ends with its actor.
"""

import asyncio
import atexit
import logging
import math
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .engine import HERE, ComfySpec, FarmError
from .ray_cluster import connected, is_there
from .waiting import Calls

logger = logging.getLogger(__name__)

PLACE_SECONDS = 120.0
"""In which there is a GPU for a worker whose GPU is free. One that is gone with its computer never
is, and prompts do not wait for it for ever."""

ANSWER_SECONDS = 120.0
"""In which Ray answers, or has started. Without its first computer it waits for that, for days."""

END_SECONDS = 20.0
"""In which it has ended, when this program ends, or a worker. Who needs longer is left to it."""


@dataclass(frozen=True)
class RayProcess:
    """A ComfyUI of an actor."""

    ray: Any
    actor: Any
    host: str
    port: int
    pid: int
    left: asyncio.Event
    """Set once the farm has left the cluster that it runs in, from which nothing comes then."""
    calls: Calls
    """To Ray, of all workers."""

    async def wait(self) -> str:
        """Waits until it has ended, and returns how."""
        code = asyncio.ensure_future(_awaited(self.actor.wait.remote()))
        left = asyncio.ensure_future(self.left.wait())
        try:
            await asyncio.wait({code, left}, return_when=asyncio.FIRST_COMPLETED)
            return f"code {code.result()}" if code.done() else "Ray has ended"
        except self.ray.exceptions.RayError as error:
            return str(error).strip().partition("\n")[0]
        finally:
            code.cancel()
            left.cancel()

    async def end(self) -> None:
        """Ends it, whatever it does, with its actor."""
        await _end(self.calls, self.ray, self.actor, self.left)


class RayEngine:
    """One actor for each GPU of a cluster."""

    def __init__(self, spec: ComfySpec, workers: int, address: str) -> None:
        """Connects to a cluster, or starts Ray on this computer.

        Args:
            spec: how to start ComfyUI.
            workers: how many; 0: as many as there are GPUs, or one without GPUs.
            address: of a cluster, such as "10.0.0.1:6379"; "" for this computer alone.

        Raises:
            FarmError: if Ray is missing, or there is no cluster.
        """
        self._spec = spec
        self._address = address
        self._calls = Calls()
        self._connecting: asyncio.Task[None] | None = None
        self.left = asyncio.Event()
        """See `RayProcess`."""
        self._ray = connected(address)
        gpus = int(self._ray.cluster_resources().get("GPU", 0)) if spec.on_gpu else 0
        self.slots = workers or gpus or 1
        if spec.on_gpu and self.slots > gpus:
            raise FarmError(
                f"There are fewer GPUs. Got {self.slots} workers for {gpus}, need one for each. "
                "Lower --workers, or add --cpu behind -- to try things out without a GPU."
            )

    async def start(self, slot: int) -> RayProcess:
        """Starts the ComfyUI of a slot, once Ray has a GPU for it.

        Raises:
            FarmError: if that is impossible for now.
        """
        try:
            await self._connected()
            left = self.left
            actor = await self._calls.call(ANSWER_SECONDS, self._new_actor, slot)
        except asyncio.TimeoutError:
            raise FarmError(
                f"Ray does not answer. Got nothing in {ANSWER_SECONDS:.0f} s, need its service on "
                "the first computer, which may hang. Look at it with 'ray status'."
            ) from None
        try:
            problem, host, pid = await asyncio.wait_for(actor.start.remote(), PLACE_SECONDS)
        except asyncio.TimeoutError:
            problem = (
                f"Ray has no free GPU for worker {slot}. Got none in {PLACE_SECONDS:.0f} s, need "
                "the computer that had it, or another one. Look at it with 'ray status'."
            )
            host, pid = "", 0
        except self._ray.exceptions.RayError as error:
            problem, host, pid = str(error).strip().partition("\n")[0], "", 0
        if problem:
            await _end(self._calls, self._ray, actor, left)
            raise FarmError(problem)
        return RayProcess(self._ray, actor, host, self._spec.port(slot), pid, left, self._calls)

    def _new_actor(self, slot: int) -> Any:
        return (
            self._ray.remote(_actor_class())
            .options(
                num_gpus=1 if self._spec.on_gpu else 0,
                num_cpus=0,
                max_concurrency=2,  # one waits for the end
                scheduling_strategy="SPREAD",
            )
            .remote(self._spec, slot, "" if self._address else HERE)
        )

    async def _connected(self) -> None:
        """Makes sure that Ray is there, once for all that need it at the same time.

        Raises:
            FarmError: if there is none any more.
            TimeoutError: if it does not answer.
        """
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect_again())
        await asyncio.shield(self._connecting)

    async def _connect_again(self) -> None:
        """Starts Ray anew, or connects with its cluster again, if it has ended."""
        if await self._calls.call(ANSWER_SECONDS, is_there, self._ray):
            return
        logger.error("Ray has ended. It is started anew, with all workers.")
        self.left.set()
        self.left = asyncio.Event()
        await self._calls.call(ANSWER_SECONDS, self._ray.shutdown)
        self._ray = await self._calls.call(ANSWER_SECONDS, connected, self._address)

    async def close(self) -> None:
        """Disconnects from Ray, which ends it on this computer if it was started here."""
        try:
            await self._calls.call(END_SECONDS, self._ray.shutdown)
        except asyncio.TimeoutError:
            logger.error("Ray does not answer, and is not waited for.")
            atexit.register(os._exit, 1)  # before Ray's own end, which would wait without limit


async def _end(calls: Calls, ray: Any, actor: Any, left: asyncio.Event) -> None:
    """Ends an actor, after this if Ray does not answer now: it would keep its GPU for ever."""
    kill = asyncio.ensure_future(calls.call(math.inf, _kill, ray, actor, left))
    await asyncio.wait({kill}, timeout=END_SECONDS)
    if kill.done():
        kill.result()


def _kill(ray: Any, actor: Any, left: asyncio.Event) -> None:
    """Ends an actor, which has ended already with its cluster: Ray would start anew for it."""
    if not left.is_set() and ray.is_initialized():
        with suppress(ray.exceptions.RayError):
            ray.kill(actor, no_restart=True)


async def _awaited(reference: Any) -> Any:
    return await reference


def _actor_class() -> Callable[..., Any]:
    """Returns a class that Ray sends with its code, not by the name of this module."""

    class WanDuetFarmWorker:
        def __init__(self, spec: ComfySpec, slot: int, host: str) -> None:
            import ray

            self._spec = spec
            self._slot = slot
            self._host = host or ray.util.get_node_ip_address()
            self._child: Any = None

        def start(self) -> tuple[str, str, int]:
            """Returns what is wrong or "", the host's address, and the process's number."""
            from render_farm.actor_process import start

            try:
                self._child = start(self._spec, self._slot, self._host)
            except (FarmError, OSError) as error:
                return str(error), "", 0
            return "", self._host, self._child.pid

        def wait(self) -> int:
            """Returns the process's code once it has ended."""
            from render_farm.actor_process import wait

            return wait(self._child, self._spec, self._slot)

    return WanDuetFarmWorker
