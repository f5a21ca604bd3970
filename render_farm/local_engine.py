"""Workers as plain processes of this computer."""

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .engine import HERE, ComfySpec, check_port
from .worker_files import LOOK_SECONDS, shorten_while_written

END_SECONDS = 10.0


@dataclass(frozen=True)
class LocalProcess:
    """A child process, which ends with this one."""

    child: asyncio.subprocess.Process
    port: int
    log: Path
    host: str = HERE

    @property
    def pid(self) -> int:
        """Its number."""
        return self.child.pid

    async def wait(self) -> str:
        """Waits until it has ended, and returns how."""
        short = True
        while True:
            try:
                return f"code {await asyncio.wait_for(self.child.wait(), LOOK_SECONDS)}"
            except asyncio.TimeoutError:
                short = shorten_while_written(self.log, quiet=not short)

    async def end(self) -> None:
        """Ends it, whatever it does."""
        if self.child.stdin is not None:
            self.child.stdin.close()
        try:
            await asyncio.wait_for(self.child.wait(), END_SECONDS)
        except asyncio.TimeoutError:
            self.child.kill()
            with suppress(asyncio.TimeoutError):  # the system ends it as soon as its driver answers
                await asyncio.wait_for(self.child.wait(), END_SECONDS)


class LocalEngine:
    """One process for each of this computer's GPUs."""

    def __init__(self, spec: ComfySpec, workers: int) -> None:
        """Starts nothing yet.

        Args:
            spec: how.
            workers: how many; 0: as many as there are GPUs, or one without GPUs.
        """
        self._spec = spec
        self._gpus = visible_gpus() if spec.on_gpu else []
        self.slots = workers or len(self._gpus) or 1

    async def start(self, slot: int) -> LocalProcess:
        """Starts the ComfyUI of a slot.

        Raises:
            FarmError: if its port is taken.
            OSError: if its folder cannot be used.
        """
        spec = self._spec
        check_port(HERE, spec.port(slot))
        environment = dict(os.environ)
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[(slot - 1) % len(self._gpus)]
        command = spec.command(slot, HERE)
        with spec.open_log(slot) as log:
            child = await asyncio.create_subprocess_exec(
                *command,
                env=environment,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        return LocalProcess(child, spec.port(slot), spec.log(slot))

    async def close(self) -> None:
        """Has nothing of its own to end."""


def visible_gpus() -> list[str]:
    """Returns the names by which CUDA_VISIBLE_DEVICES selects this computer's GPUs."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name]
    import torch  # ComfyUI's; it takes seconds, and only its counting is needed

    return [str(number) for number in range(torch.cuda.device_count())]
