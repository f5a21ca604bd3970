"""File names that no two workers give at the same time.

ComfyUI's nodes take the next free number of a name before they write the file. Two workers that
finish together in one output folder would take the same number, and one video would be lost.
"""

from collections.abc import Mapping
from typing import Any

PREFIX = "filename_prefix"


def mark_names(prompt: Mapping[str, Any], slot: int) -> dict[str, Any]:
    """Returns a prompt in API format whose files carry the number of a worker's slot."""
    return {node_id: _marked(node, slot) for node_id, node in prompt.items()}


def _marked(node: Any, slot: int) -> Any:
    inputs = node.get("inputs") if isinstance(node, Mapping) else None
    if not isinstance(inputs, Mapping) or not isinstance(name := inputs.get(PREFIX), str):
        return node
    return {**node, "inputs": {**inputs, PREFIX: f"{name}_w{slot}"}}
