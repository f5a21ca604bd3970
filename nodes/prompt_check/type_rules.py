"""Values of another type than the widget's, and links to nothing.

ComfyUI converts what it can: 4.5 steps would become 4, null the prompt "None", and "false" true. A
link to a node that is not there it reports at another node, if at all.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from .graph import Graph
from .problem import Problem

SHOWN_CHARACTERS = 60
"""Of a wrong value."""
KNOWN_LATER = ["unknown", 0]
"""What the editor sends in the place of a value that only the run will know: `js/read_graph.js`."""


@dataclass(frozen=True)
class NodeKind:
    """What a class takes and gives."""

    inputs: Mapping[str, object]
    """Name -> type, such as "INT"."""
    outputs: int


Kinds = Callable[[str], NodeKind | None]
"""From a class to what it takes and gives; None for classes that there are not."""


@dataclass(frozen=True)
class _Widget:
    need: str
    example: str
    loses: Callable[[object], bool]
    """Whether ComfyUI would make something else of a value than it says."""


WIDGETS = {
    "INT": _Widget("a whole number", "20", lambda value: _is_bool(value) or _is_broken(value)),
    "FLOAT": _Widget("a number", "5.0", lambda value: _is_bool(value)),
    "STRING": _Widget("text", '"a red ball"', lambda value: not _is_text(value)),
    "BOOLEAN": _Widget("true or false", "true", lambda value: not _is_switch(value)),
}
"""What else is wrong, ComfyUI refuses by itself."""

LINK = _Widget(
    "a link", '["4", 0]', lambda value: isinstance(value, float) and not math.isfinite(value)
)
"""Numbers that are none are not less than any limit; see `checked_inputs`."""


def type_problems(graph: Graph, kinds: Kinds, ours: str) -> Iterator[Problem]:
    """Looks at every value and link of nodes whose class begins with `ours`."""
    for node_id in graph.nodes:
        kind = kinds(graph.kind(node_id)) if graph.kind(node_id).startswith(ours) else None
        if kind is None:
            continue
        for name, value in graph.inputs(node_id).items():
            if name not in kind.inputs:
                continue
            if isinstance(value, list):
                problem = _link_problem(graph, kinds, name, value)
            else:
                problem = _value_problem(name, kind.inputs[name], value)
            if problem:
                yield Problem(node_id, name, problem)


def _value_problem(name: str, kind: object, value: object) -> str | None:
    if isinstance(value, dict) and "__value__" in value:
        value = value["__value__"]  # so ComfyUI tells lists from links
    if kind == "COMBO" or not isinstance(kind, str):
        return _choice_problem(name, value)
    widget = WIDGETS.get(kind, LINK)
    if not widget.loses(value):
        return None
    return (
        f"{name} is of another type. Got {_shown(value)}, need {widget.need}. Write it as in "
        f"{widget.example}."
    )


def _choice_problem(name: str, value: object) -> str | None:
    """ComfyUI's check takes null for what a node will give, where files are checked by ours."""
    if value is not None:
        return None
    return (
        f"Nothing is chosen as {name}. Got null, need one of its choices. Choose one; if there are "
        "none, put a file into its folder."
    )


def _link_problem(graph: Graph, kinds: Kinds, name: str, value: list[object]) -> str | None:
    if value == KNOWN_LATER:
        return None
    node_id, slot = value if len(value) == 2 else (None, None)
    if isinstance(node_id, str) and node_id in graph.nodes:
        kind = kinds(graph.kind(node_id))
        if kind is None or (type(slot) is int and 0 <= slot < kind.outputs):
            return None
    return (
        f"{name} is linked to nothing. Got {_shown(value)}, need the id of a node as text, and the "
        "number of one of its outputs, from 0. Connect it again."
    )


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_broken(value: object) -> bool:
    """Whether it is a number with a fraction; those that are none, ComfyUI refuses."""
    return isinstance(value, float) and math.isfinite(value) and value % 1 != 0


def _is_text(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, int | float) and not _is_bool(value))


def _is_switch(value: object) -> bool:
    return _is_bool(value) or (isinstance(value, int | float) and value in (0, 1))
