"""Tensors in checkpoints that belong to no weight and are left out: what they are for."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .source import RawTensor


@dataclass(frozen=True)
class Passenger:
    """Tensors that a model computes without, by their names."""

    pattern: re.Pattern[str]
    """Of the whole name, without prefix."""
    remark: str | None = None
    """What people should know of it."""


PASSENGERS = (
    # ComfyUI's own wish for an attention kernel; ours is chosen at the loader.
    Passenger(re.compile(r"(.*\.)?comfy_attention\..*")),
    Passenger(
        re.compile(r"blocks\.\d+\.(self_attn|attn1)\.(.*\.)?proj_l\.(weight|bias)"),
        "The file has branches for sparse-linear attention (SLA, proj_l). They are not used: they "
        "make up for what a sparse kernel leaves out, and attention is dense here.",
    ),
)


def set_down(tensors: Mapping[str, RawTensor]) -> tuple[dict[str, RawTensor], tuple[str, ...]]:
    """Returns tensors without passengers, and the remarks on those.

    Args:
        tensors: by name, without prefix.
    """
    kept: dict[str, RawTensor] = {}
    remarks: dict[str, None] = {}
    for name, raw in tensors.items():
        found = _find(name, PASSENGERS)
        if found is None:
            kept[name] = raw
        elif found.remark is not None:
            remarks[found.remark] = None
    return kept, tuple(remarks)


def _find(name: str, passengers: Iterable[Passenger]) -> Passenger | None:
    return next((one for one in passengers if one.pattern.fullmatch(name)), None)
