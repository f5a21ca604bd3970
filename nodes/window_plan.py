"""What context windows of a workflow will make of a run, read before it starts."""

from dataclasses import dataclass
from typing import Any

from ..wan_model.errors import WanError
from ._comfy.host.prompt_gate import node_class
from ._comfy.model.window_work import frames_seen, windows_per_step
from ._comfy.sampling.time_windows import WanWindows, Windows
from .context_windows import window_lengths
from .loader_settings import ALL_WINDOWS, WINDOWS
from .prompt_check.graph import Graph

OURS = ("window_schedule", "free_noise", "loop", "keep_image")
UNKNOWN = object()
"""A handler of which nothing is known."""


@dataclass(frozen=True)
class Seen:
    """What a forward pass of a model gets of a video."""

    frames: int
    """Latent frames; all of them where windows are not known."""
    windows: float | None
    """How many make a step; None if that is not known."""


def seen_at(graph: Graph, node_id: str, name: str, frames: int, steps: int) -> Seen:
    """Returns what the MODEL at an input will see of a video.

    Args:
        graph: the workflow.
        node_id: whose input it is.
        name: of the input.
        frames: latent frames of the video.
        steps: that run.
    """
    handler = _handler_at(graph, node_id, name)
    windows = windows_per_step(handler, frames, steps)
    return Seen(frames_seen(handler, frames), windows)


def _handler_at(graph: Graph, node_id: str, name: str) -> Any:
    """Returns the context handler that a MODEL will have, None if it has none.

    `UNKNOWN` where links decide, or where the node would refuse its values.
    """
    for output in graph.chain(node_id, name):
        kind = graph.kind(output.node_id)
        if kind not in ALL_WINDOWS:
            continue
        if graph.values(output.node_id) is None:
            return UNKNOWN
        values = {k: v for k, v in graph.inputs(output.node_id).items() if not isinstance(v, list)}
        try:
            return _ours(values) if kind == WINDOWS else _cores(kind, values)
        except (WanError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            return UNKNOWN
    return None


def _ours(values: dict[str, Any]) -> WanWindows:
    lengths = window_lengths(values["window_length"], values["window_overlap"])
    return WanWindows(Windows(*lengths, *(values[name] for name in OURS)), image_in_latent=False)


def _cores(kind: str, values: dict[str, Any]) -> Any:
    """Has core's node put its handler on what remembers it: versions read values differently."""
    taken = _Taken()
    node_class(kind).execute(model=taken, **values)
    return taken.model_options["context_handler"]


class _Taken:
    """As much of a MODEL as core's node changes."""

    def __init__(self) -> None:
        self.model_options: dict[str, Any] = {}

    def clone(self) -> "_Taken":
        """Returns itself: it is nobody else's."""
        return self

    def add_wrapper_with_key(self, *_: Any) -> None:
        """Ignores what runs when sampling is prepared."""
