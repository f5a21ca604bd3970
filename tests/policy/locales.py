"""What the editor's translations say: `locales/LANGUAGE/nodeDefs.json`."""

import json
from typing import Any

from .source import REPOSITORY

LOCALES = REPOSITORY / "locales"

Words = dict[str, Any]


def of_schema(object_info: dict[str, Any], node_ids: list[str]) -> Words:
    """Returns the English words as the nodes have them, in the form of a nodeDefs.json."""
    return {node_id: _of_node(object_info[node_id]) for node_id in node_ids}


def _of_node(info: dict[str, Any]) -> Words:
    inputs = {
        name: {
            "name": options.get("display_name") or name,
            "tooltip": options.get("tooltip") or "",
        }
        for group in ("required", "optional")
        for name in info["input_order"].get(group, ())
        for options in [(*info["input"][group][name], {})[1]]
    }
    outputs = {str(i): {"name": name} for i, name in enumerate(info["output_name"])}
    words = {"display_name": info["display_name"], "description": info["description"]}
    return {**words, "inputs": inputs, **({"outputs": outputs} if outputs else {})}


def load(language: str, name: str = "nodeDefs") -> Words:
    """Returns one file of a language."""
    return json.loads((LOCALES / language / f"{name}.json").read_text("utf-8"))


def record(language: str, words: Words) -> None:
    """Writes a language's nodeDefs.json."""
    text = json.dumps(words, indent=1, ensure_ascii=False)
    (LOCALES / language / "nodeDefs.json").write_text(text + "\n", "utf-8")


def leaves(words: Words, path: str = "") -> dict[str, str]:
    """Returns every text by its path."""
    found: dict[str, str] = {}
    for key, value in words.items():
        place = f"{path}.{key}" if path else key
        found |= leaves(value, place) if isinstance(value, dict) else {place: value}
    return found
