"""File names that no two workers give at the same time.

ComfyUI's nodes take the next free number of a name before they write the file. Two workers that
finish together in one output folder would take the same number, and one video would be lost.
"""

import re
from collections.abc import Mapping
from typing import Any

PREFIX = "filename_prefix"

MARK = re.compile(r"_w\d+$")
"""Of a prompt that was taken from a video which the farm has saved."""

MOST_LINKS = 8


def mark_names(prompt: Mapping[str, Any], slot: int) -> dict[str, Any]:
    """Returns a prompt in API format whose files carry the number of a worker's slot.

    A name that comes from another node is marked if that node only holds a text.
    """
    return {node_id: _marked(prompt, node, slot) for node_id, node in prompt.items()}


def _marked(prompt: Mapping[str, Any], node: Any, slot: int) -> Any:
    inputs = _inputs(node)
    name = _text(prompt, inputs.get(PREFIX))
    if name is None:
        return node
    return {**node, "inputs": {**inputs, PREFIX: f"{MARK.sub('', name)}_w{slot}"}}


def _text(prompt: Mapping[str, Any], value: Any) -> str | None:
    """Returns a text that is given, or held by a node such as ComfyUI's *String*."""
    for _ in range(MOST_LINKS):
        if isinstance(value, str):
            return value
        if not isinstance(value, list) or len(value) != 2:
            return None
        node = prompt.get(str(value[0]))
        kind = node.get("class_type") if isinstance(node, Mapping) else None
        if not str(kind).startswith("Primitive"):
            return None
        value = _inputs(node).get("value")
    return None


def _inputs(node: Any) -> Mapping[str, Any]:
    inputs = node.get("inputs") if isinstance(node, Mapping) else None
    return inputs if isinstance(inputs, Mapping) else {}
