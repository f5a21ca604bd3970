"""ComfyUI as the child process of a Ray actor."""

import os
import subprocess

from .engine import ComfySpec, check_port
from .worker_files import LOOK_SECONDS, shorten_while_written

NOT_INHERITED = ("OMP_NUM_THREADS", "LD_PRELOAD")
"""What Ray sets for the processes that it starts: ComfyUI may use the whole computer."""


def start(spec: ComfySpec, slot: int, host: str) -> "subprocess.Popen[bytes]":
    """Starts a slot's ComfyUI on this computer; it ends when this process does.

    Raises:
        FarmError: if its port is taken.
        OSError: if there is no such program or folder.
    """
    check_port(host, spec.port(slot))
    environment = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED}
    environment |= dict(spec.environment)
    command = spec.command(slot, host)
    with spec.open_log(slot) as log:
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log
        )


def wait(child: "subprocess.Popen[bytes]", spec: ComfySpec, slot: int) -> int:
    """Returns a ComfyUI's code once it has ended."""
    short = True
    while True:
        try:
            return child.wait(LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            short = shorten_while_written(spec.log(slot), quiet=not short)
