"""Workers as Ray actors, each with a GPU of a cluster and a ComfyUI on that GPU's computer.

Ray finds a free GPU, and tells when an actor, its computer or its GPU's process is gone. An actor
belongs to this program: Ray ends it when this program ends, and ComfyUI ends with its actor.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from .engine import HERE, ComfySpec, FarmError

INSTALL = "pip install ray"
PACKAGE = Path(__file__).parent
STORE_BYTES = 100 << 20
"""Of shared memory: next to nothing travels through Ray."""

PLACE_SECONDS = 120.0
"""In which there is a GPU for a worker whose GPU is free. One that is gone with its computer never
is, and prompts do not wait for it for ever."""


@dataclass(frozen=True)
class RayProcess:
    """A ComfyUI of an actor."""

    ray: Any
    actor: Any
    host: str
    port: int
    pid: int

    async def wait(self) -> str:
        """Waits until it has ended, and returns how."""
        try:
            return f"code {await self.actor.wait.remote()}"
        except self.ray.exceptions.RayError as error:
            return str(error).strip().partition("\n")[0]

    async def end(self) -> None:
        """Ends it, whatever it does, with its actor."""
        self.ray.kill(self.actor, no_restart=True)


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
        self._alone = not address
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
        actor = (
            self._ray.remote(_actor_class())
            .options(
                num_gpus=1 if self._spec.on_gpu else 0,
                num_cpus=0,
                max_concurrency=2,  # one waits for the end
                scheduling_strategy="SPREAD",
            )
            .remote(self._spec, slot, HERE if self._alone else "")
        )
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
            self._ray.kill(actor, no_restart=True)
            raise FarmError(problem)
        return RayProcess(self._ray, actor, host, self._spec.port(slot), pid)

    async def close(self) -> None:
        """Disconnects from Ray, which ends it on this computer if it was started here."""
        self._ray.shutdown()


def connected(address: str) -> Any:
    """Returns Ray, connected to a cluster or started on this computer.

    Raises:
        FarmError: if Ray is missing, or there is no cluster.
    """
    try:
        ray = import_module("ray")
    except ImportError as error:
        raise FarmError(
            f"Ray is missing. Got no usable package 'ray' ({error}), need it for workers on other "
            f"computers. Install it with '{INSTALL}', or give --without-ray for this one's GPUs."
        ) from error
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    # Workers find this folder's modules through Ray, wherever they lie on their computer.
    options["runtime_env"] = {"py_modules": [str(PACKAGE)]}
    if address:
        options["address"] = address
    else:
        options |= {"address": "local", "num_cpus": 1, "include_dashboard": False}
        options["object_store_memory"] = STORE_BYTES
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(logging_level=logging.WARNING, namespace="wanduet-farm", **options)
    except Exception as error:  # a start that takes too long has no kind of its own in Ray
        where = f"at {address}" if address else "on this computer"
        raise FarmError(
            f"Ray does not start {where}. Got '{error}', need a running cluster or enough memory "
            "and rights to start one. Check --address, or leave it out."
        ) from error
    return ray


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
