"""What starts ComfyUI's processes and notices their end: this computer, or Ray."""

import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from .worker_files import claim, shorten

GUARD = Path(__file__).with_name("guard.py")
HERE = "127.0.0.1"
LAST_PORT = 65535


class FarmError(Exception):
    """The farm cannot run. The message says what to do."""


@dataclass(frozen=True)
class ComfySpec:
    """How each worker's ComfyUI is started."""

    program: str
    """ComfyUI's main.py, in the same place on all computers."""
    arguments: tuple[str, ...]
    """More arguments for it, the same for all workers."""
    folder: str
    """For logs, temporary files and databases, which workers do not share."""
    first_port: int
    """Of slot 1; the next slot has the next one."""
    environment: tuple[tuple[str, str], ...] = ()
    """Variables that Ray would not pass on."""
    private: bool = False
    """Whether nobody else may look into the folder: nobody has chosen it."""

    @property
    def on_gpu(self) -> bool:
        """Whether each needs a GPU."""
        return "--cpu" not in self.arguments

    def command(self, slot: int, host: str) -> list[str]:
        """Returns the command line of a slot's ComfyUI, and makes its folder.

        Raises:
            OSError: if it cannot be made, or is somebody else's.
        """
        if self.private:
            claim(Path(self.folder))
        own = Path(self.folder) / f"worker-{slot}"
        own.mkdir(parents=True, exist_ok=True)
        return [
            *(sys.executable, str(GUARD), self.program),
            *("--listen", host, "--port", str(self.port(slot))),
            *("--temp-directory", str(own), "--database-url", f"sqlite:///{own}/comfyui.db"),
            "--disable-auto-launch",
            *self.arguments,
        ]

    def port(self, slot: int) -> int:
        """Returns where a slot's ComfyUI listens."""
        return self.first_port + slot - 1

    def log(self, slot: int) -> Path:
        """Returns the file that a slot's ComfyUI writes its messages to."""
        return Path(self.folder) / f"worker-{slot}.log"

    def open_log(self, slot: int) -> IO[bytes]:
        """Opens that file, at its end."""
        shorten(self.log(slot))
        return self.log(slot).open("ab")


class Process(Protocol):
    """A ComfyUI that was started; it may not answer yet."""

    @property
    def host(self) -> str:
        """Address of its computer."""
        ...

    @property
    def port(self) -> int:
        """Where it listens there."""
        ...

    @property
    def pid(self) -> int:
        """Its number there."""
        ...

    async def wait(self) -> str:
        """Waits until it has ended, and returns how."""
        ...

    async def end(self) -> None:
        """Ends it, whatever it does."""
        ...


class Engine(Protocol):
    """Starts processes."""

    @property
    def slots(self) -> int:
        """How many ComfyUIs run at a time: one for each GPU."""
        ...

    async def start(self, slot: int) -> Process:
        """Starts the ComfyUI of a slot (1, 2, ...), once there is a GPU for it.

        Raises:
            FarmError: if that is impossible for now.
        """
        ...

    async def close(self) -> None:
        """Ends what the engine itself has started."""
        ...


def check_port(host: str, port: int) -> None:
    """Sees whether a ComfyUI could listen there.

    Raises:
        FarmError: if something else does, or there is no such port.
    """
    if not 0 < port <= LAST_PORT:
        raise FarmError(
            f"A worker's port does not exist. Got {port}, need one from 1 to {LAST_PORT}. "
            "Choose others with --worker-port."
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise FarmError(
                f"A worker's port cannot be used. Got {port} ({error.strerror}), need a free one. "
                "End the program that has it, or choose others with --worker-port."
            ) from error
