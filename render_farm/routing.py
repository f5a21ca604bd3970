"""Which prompt goes to which worker next. Pure functions.

Loading a model takes longer than a short video, so a worker that holds a prompt's models is taken
before another that is free, and a worker may take a prompt out of turn whose models it holds. No
prompt is overtaken for ever, and no worker waits while there is something that it can do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MODEL_FILES = (".safetensors", ".gguf", ".sft", ".ckpt", ".pth", ".pt", ".bin")

MOST_OVERTAKEN = 4
"""How often a prompt lets others pass whose models are loaded already."""


@dataclass(frozen=True)
class Waiting:
    """A prompt that waits, as far as its way is concerned."""

    prompt_id: str
    models: frozenset[str] = frozenset()
    overtaken: int = 0
    first: bool = False
    """Whether somebody asked for it to be the next."""
    avoid: frozenset[int] = field(default=frozenset())
    """Slots that cannot run it."""


@dataclass(frozen=True)
class Free:
    """A worker that has nothing to do."""

    slot: int
    holds: frozenset[str] = frozenset()
    """Model files of its last prompt."""
    served: int = 0
    """How many prompts it has run."""


@dataclass(frozen=True)
class Choice:
    """The next prompt, and its worker."""

    prompt_id: str
    slot: int
    passed: str | None = None
    """The prompt that lets it go first."""


def models_of(prompt: Mapping[str, Any]) -> frozenset[str]:
    """Returns the model files that a prompt in API format names, LoRAs among them."""
    nodes = (node for node in prompt.values() if isinstance(node, Mapping))
    inputs = (node.get("inputs") for node in nodes)
    values = (value for each in inputs if isinstance(each, Mapping) for value in each.values())
    return frozenset(
        value for value in values if isinstance(value, str) and value.lower().endswith(MODEL_FILES)
    )


def next_run(waiting: Sequence[Waiting], free: Sequence[Free]) -> Choice | None:
    """Returns what to start next, None if nothing can be.

    Args:
        waiting: in their order.
        free: in any order.
    """
    for place, prompt in enumerate(waiting):
        able = [worker for worker in free if worker.slot not in prompt.avoid]
        if not able:
            continue
        best = max(able, key=lambda worker: _fitness(prompt, worker))
        if not prompt.models or _holds(best, prompt) or not _lets_pass(prompt):
            return Choice(prompt.prompt_id, best.slot)
        other = _in_its_place(waiting[place + 1 :], able)
        if other is None:
            return Choice(prompt.prompt_id, best.slot)
        return Choice(other.prompt_id, other.slot, prompt.prompt_id)
    return None


def _in_its_place(behind: Sequence[Waiting], able: Sequence[Free]) -> Choice | None:
    """Returns the first prompt whose models a worker holds, up to one that may not be passed."""
    for prompt in behind:
        for worker in able:
            if worker.slot not in prompt.avoid and _holds(worker, prompt):
                return Choice(prompt.prompt_id, worker.slot)
        if not _lets_pass(prompt):
            return None
    return None


def _lets_pass(prompt: Waiting) -> bool:
    return not prompt.first and prompt.overtaken < MOST_OVERTAKEN


def _holds(worker: Free, prompt: Waiting) -> bool:
    return bool(prompt.models) and prompt.models <= worker.holds


def _fitness(prompt: Waiting, worker: Free) -> tuple[int, int, int, int]:
    """The larger, the better: its models, then the least that another prompt would miss."""
    shared = len(prompt.models & worker.holds)
    return shared, -len(worker.holds - prompt.models), -worker.served, -worker.slot
