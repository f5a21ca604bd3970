"""JSON of files that come from strangers: a header, an index, a note."""

import json
from typing import Any

from .source import shown


def parse_json(text: bytes | str) -> Any:
    """Parses JSON that a stranger wrote.

    Raises:
        ValueError: for anything but JSON, for a key given twice, and for absurd nesting.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"the key {shown(name)} is there twice")
        result[name] = value
    return result
