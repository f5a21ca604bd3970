"""What the widgets of a loader mean on a device: precision, attention, and a tier of speed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from ....wan_model.attention import AttentionFn, SparseSchedule
from ....wan_model.errors import BackendError
from ....wan_model.loading import CheckpointInfo
from ....wan_model.presets import AUTO, Tier
from ..host import runtime
from .attention_choice import choose, planned, refusal
from .precision_choice import explain, precision_at

T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """What a loader's widgets ask for."""

    precision: str
    attention: str
    tier: Tier | None

    @property
    def attentions(self) -> tuple[str, ...]:
        """Names of attention, of which the first that runs is taken."""
        if self.tier is not None and self.attention == AUTO:
            return self.tier.attention
        return (self.attention,)


@dataclass(frozen=True)
class Computing:
    """How the models of a loader compute on one device."""

    precision: str
    attend: AttentionFn
    matmuls: list[str]
    """What is said of each kind of file."""
    attention: str
    """What is said of attention."""


def computing(
    wanted: Wanted, infos: Sequence[CheckpointInfo], device: torch.device, *, measured: bool = True
) -> Computing:
    """Returns what a loader's widgets mean on a device.

    Args:
        wanted: by the widgets.
        infos: the files that will run there.
        device: where.
        measured: whether kernels may be measured that never were; if not, it is the answer as far
            as it is known.

    Raises:
        BackendError: if what was chosen by name cannot run there.
    """
    precision = precision_at(wanted.tier, wanted.precision, device)
    dtype = runtime.compute_dtype(precision, device)
    trained = all(info.trained_sparse for info in infos)
    ask = partial(choose if measured else planned, trained_sparse=trained)
    with runtime.on_device(device):  # What is asked of a GPU is asked of PyTorch's current one.
        matmuls = list(dict.fromkeys(explain(precision, info, device) for info in infos))
        (attend, said), refused = _first(wanted.attentions, lambda name: ask(name, device, dtype))
    said = "; ".join([said, *(reason for reason in refused if reason not in said)])
    return Computing(precision, attend, matmuls, said)


def _first(names: Sequence[str], take: Callable[[str], T]) -> tuple[T, list[str]]:
    """Returns what the first name that runs here gives, and why those before it do not."""
    refused: list[str] = []
    for name in names[:-1]:
        try:
            return take(name), refused
        except BackendError as error:
            refused.append(refusal(name, error))
    return take(names[-1]), refused


def said_of_devices(found: dict[torch.device, Computing]) -> list[str]:
    """Returns what a loader says of matmuls and attention, with the device where they differ."""
    said = {device: [*one.matmuls, one.attention] for device, one in found.items()}
    lines = list(said.values())
    if all(each == lines[0] for each in lines):
        return lines[0]
    return [f"{device}: {line}" for device, each in said.items() for line in each]


def said_of_few_tokens(attend: AttentionFn, tokens: int) -> list[str]:
    """Returns what is to be said of a video that is too short for a schedule's fast part."""
    if not isinstance(attend, SparseSchedule) or tokens >= attend.min_tokens:
        return []
    return [
        f"Attention is exact in all steps: this video has {tokens} tokens, and the faster kind "
        f"begins at {attend.min_tokens}"
    ]
