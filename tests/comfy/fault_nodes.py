"""Test-only ComfyUI nodes that have one thing go wrong at one place of the next prompt.

Places are calls of modules, by the name of their class, and files that are opened or moved.
"""

import errno
import os
import resource
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch
from comfy_api.latest import ComfyExtension, io
from torch import nn

MODULES = {
    "text": ("T5Block", 0),
    "image encode": ("Encoder", 0),
    "high expert": ("DotProductAttention", 2),
    "switch": ("PatchEmbedding", 1),
    "low expert": ("DotProductAttention", 6),
    "decode": ("Decoder", 0),
}
"""Class of a module and how many of its calls pass first, in a run of two steps and two blocks,
each of which attends twice."""

FILES = {
    "load": ("open", "diffusion_models/"),
    "text load": ("open", "text_encoders/"),
    "frames' load": ("open", "models/vae/"),
    "cache write": ("os.rename", "wanduet/text_embeddings/"),
    "conversion": ("open", "wanduet/weights/"),
    "conversion's end": ("os.rename", "wanduet/weights/"),
    "save": ("open", "output/diffusion_models/"),
    "save's end": ("os.rename", "output/diffusion_models/"),
}
"""What Python does to a file, and a part of its path."""

TOO_MUCH = 1 << 50


def _fail() -> None:
    raise RuntimeError("a fault on purpose")


def _fill_card() -> None:
    raise torch.OutOfMemoryError("Tried to allocate 2 GiB, on purpose")


def _fill_memory() -> None:
    torch.empty(TOO_MUCH, dtype=torch.uint8)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(), -1))


def _lift_limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))


def _fill_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _end(how: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), how)


def _replace(file: Path) -> None:
    other = file.with_suffix(".other")
    data = bytearray(file.read_bytes())
    data[-4096:] = bytes(4096)
    other.write_bytes(data)
    shutil.move(other, file)


FAULTS: dict[str, Callable[[], None]] = {
    "exception": _fail,
    "interrupt": comfy.model_management.interrupt_current_processing,
    "card full": _fill_card,
    "memory full": _fill_memory,
    "memory limit": _limit_memory,
    "disk full": _fill_disk,
    "SIGKILL": _end(signal.SIGKILL),
    "SIGTERM": _end(signal.SIGTERM),
}
DAMAGES: dict[str, Callable[[Path], Any]] = {
    "cut off": lambda file: os.truncate(file, 4096),
    "deleted": Path.unlink,
    "replaced": _replace,
    "written to": lambda file: os.utime(file, (0, 0)),
}


class _Armed:
    """The fault that waits; an audit hook cannot be taken off again, so it is there for good."""

    def __init__(self) -> None:
        self.event, self.part = "", ""
        self.module, self.calls = "", 0
        self.fault: Callable[[], Any] = _fail
        self.handle: Any = None
        sys.addaudithook(self._audit)

    def arm(self, place: str, fault: Callable[[], Any]) -> None:
        self.disarm()
        self.fault = fault
        if place in FILES:
            self.event, self.part = FILES[place]
        else:
            self.module, self.calls = MODULES[place]
            self.handle = nn.modules.module.register_module_forward_pre_hook(self._called)

    def disarm(self) -> None:
        self.event = self.module = ""
        if self.handle is not None:
            self.handle.remove()
            self.handle = None

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != self.event or self.part not in str(arguments[0]):
            return
        if "prompt_worker" in threading.current_thread().name:  # not what looks at it before
            self._happen()

    def _called(self, module: nn.Module, _: Any) -> None:
        if type(module).__name__ == self.module:
            self.calls -= 1
            if self.calls < 0:
                self._happen()

    def _happen(self) -> None:
        self.disarm()
        fault = self.fault
        (Path(folder_paths.get_output_directory()) / "fault.txt").write_text("happened")
        fault()


ARMED = _Armed()


class ArmFault(io.ComfyNode):
    """Has a fault happen once, at the given place of a later prompt; "none" takes it away."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestFault",
            category="WanDuet tests",
            inputs=[io.String.Input("place"), io.String.Input("fault"), io.String.Input("file")],
            outputs=[],
            is_output_node=True,
            not_idempotent=True,
        )

    @classmethod
    def execute(cls, place: str, fault: str, file: str) -> io.NodeOutput:
        if place == "none":
            ARMED.disarm()
            _lift_limit()
        elif fault in DAMAGES:
            ARMED.arm(place, lambda: DAMAGES[fault](Path(file)))
        else:
            ARMED.arm(place, FAULTS[fault])
        return io.NodeOutput()


class FaultExtension(ComfyExtension):
    """The nodes of this file."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [ArmFault]


async def comfy_entrypoint() -> FaultExtension:
    """Called by ComfyUI when it loads the file."""
    return FaultExtension()
