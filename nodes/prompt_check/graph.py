"""A workflow in API format, and what lies upstream of an input."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAX_CHAIN = 100
"""Nodes followed upstream, in case a graph runs in a circle."""

MODEL_INPUTS = ("model", "model_high", "model1")
LOW = "model_low"
VAE = "vae"
"""What shares GPUs with a MODEL, and changes nothing of it."""
LOW_OUTPUT = 1

Lazy = Callable[[str], Collection[str]]


@dataclass(frozen=True)
class Output:
    """One output of a node."""

    node_id: str
    slot: int


@dataclass(frozen=True)
class Graph:
    """Nodes by id, each {"class_type", "inputs"}; an input is a value or a link [id, output]."""

    nodes: Mapping[str, Any]

    def kind(self, node_id: str) -> str:
        """Returns a node's class."""
        return str(self.nodes.get(node_id, {}).get("class_type", ""))

    def inputs(self, node_id: str) -> Mapping[str, Any]:
        """Returns a node's values and links."""
        return self.nodes.get(node_id, {}).get("inputs") or {}

    def given(self, node_id: str, name: str) -> bool:
        """Whether an input has a link; API clients write null for nothing, and may err."""
        value = self.inputs(node_id).get(name)
        return isinstance(value, list) and len(value) == 2

    def of_kind(self, kind: str) -> list[str]:
        """Returns the ids of all nodes of a class."""
        return [node_id for node_id in self.nodes if self.kind(node_id) == kind]

    def link(self, node_id: str, name: str) -> Output | None:
        """Returns what is connected at an input."""
        value = self.inputs(node_id).get(name)
        if isinstance(value, list) and len(value) == 2 and isinstance(value[1], int):
            return Output(str(value[0]), int(value[1])) if str(value[0]) in self.nodes else None
        return None

    def value(self, node_id: str, name: str, default: Any = None) -> Any:
        """Returns a widget's value; the default where there is none or a link decides."""
        value = self.inputs(node_id).get(name, default)
        return default if isinstance(value, list) else value

    def values(self, node_id: str) -> str | None:
        """Returns all of a node's own values, to be compared; None if a link decides more."""
        inputs = self.inputs(node_id).items()
        if any(isinstance(v, list) and name not in (*MODEL_INPUTS, LOW, VAE) for name, v in inputs):
            return None
        return str(sorted((name, v) for name, v in inputs if not isinstance(v, list)))

    def number(self, node_id: str, name: str) -> float | None:
        """Returns a widget's number; None where only the run will know it."""
        value = self.value(node_id, name)
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    def chain(self, node_id: str, name: str) -> Iterator[Output]:
        """Goes upstream from a MODEL input, through what takes and gives a MODEL."""
        found = self.link(node_id, name)
        for _ in range(MAX_CHAIN):
            if found is None:
                return
            yield found
            names = MODEL_INPUTS
            if found.slot == LOW_OUTPUT and LOW in self.inputs(found.node_id):
                names = (LOW,)
            links = (self.link(found.node_id, each) for each in names)
            found = next((each for each in links if each is not None), self._only_link(found))

    def _only_link(self, output: Output) -> Output | None:
        """Returns what a node passes on that has one link, such as a switch with one way."""
        links = [self.link(output.node_id, name) for name in self.inputs(output.node_id)]
        links = [each for each in links if each is not None]
        return links[0] if len(links) == 1 else None

    def upstream(self, roots: list[str], lazy: Lazy = lambda _: ()) -> set[str]:
        """Returns these nodes and all that they are made from.

        Args:
            roots: ids.
            lazy: from a class to its inputs that may not be run at all; they are left out.
        """
        seen: set[str] = set()
        waiting = [root for root in roots if root in self.nodes]
        while waiting:
            node_id = waiting.pop()
            if node_id in seen:
                continue
            seen.add(node_id)
            unsure = lazy(self.kind(node_id))
            names = (name for name in self.inputs(node_id) if name not in unsure)
            links = (self.link(node_id, name) for name in names)
            waiting += [found.node_id for found in links if found is not None]
        return seen
