"""The pack's templates in graph format, and what they need in order to run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def templates(folder: Path) -> list[Path]:
    """Returns the workflows that the template browser shows."""
    return sorted(folder.glob("*.json"))


def nodes(workflow: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields every node, those within subgraphs too."""
    yield from workflow["nodes"]
    for subgraph in workflow.get("definitions", {}).get("subgraphs", []):
        yield from subgraph["nodes"]


def image_names(folder: Path) -> set[str]:
    """Returns the images that the templates' LoadImage nodes name and the pack does not bring."""
    loaded = (json.loads(path.read_text(encoding="utf-8")) for path in templates(folder))
    named = {
        node["widgets_values"][0]
        for workflow in loaded
        for node in nodes(workflow)
        if node["type"] == "LoadImage"
    }
    return named - {path.name for path in (folder / "input").iterdir()}
