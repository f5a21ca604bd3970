"""Writes the workflow templates: graph format for the editor, API format for the queue.

Both come from one description, so that they cannot drift apart. The node schemas are read from
a ComfyUI that runs with this pack:

    python tools/make_workflows.py http://127.0.0.1:8188
"""

import argparse
import json
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workflow_specs import WORKFLOWS, Node, Workflow

FOLDER = Path(__file__).parents[1] / "workflows"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
Schema = dict[str, Any]


@dataclass
class GraphBuilder:
    """Numbers the nodes and links of one graph."""

    schemas: dict[str, Schema]
    ids: dict[str, int]
    links: list[list[Any]] = field(default_factory=list)
    targets: dict[tuple[str, int], list[int]] = field(default_factory=dict)

    def link(self, source: tuple[str, int], kind: str, target: str, slot: int) -> int:
        """Adds a link and returns its number."""
        number = len(self.links) + 1
        self.links.append([number, self.ids[source[0]], source[1], self.ids[target], slot, kind])
        self.targets.setdefault(source, []).append(number)
        return number


def inputs_of(schema: Schema) -> list[tuple[str, Any, dict[str, Any], bool]]:
    """Returns (name, type, options, is_widget) of all inputs, in the editor's order."""
    result = []
    for group in ("required", "optional"):
        for name in schema["input_order"].get(group, []):
            kind, *rest = schema["input"][group][name]
            options = rest[0] if rest else {}
            combo = isinstance(kind, list)
            result.append((name, "COMBO" if combo else kind, options, combo or kind in WIDGETS))
    return result


def graph_node(builder: GraphBuilder, name: str, node: Node, order: int) -> dict[str, Any]:
    """Returns a node in the editor's format, with its links registered."""
    schema = builder.schemas[node.kind]
    sockets: list[dict[str, Any]] = []
    values: list[Any] = []
    all_inputs = inputs_of(schema)
    for socket, kind, _, is_widget in all_inputs:
        if not is_widget:
            source = node.inputs.get(socket)
            number = builder.link(source, kind, name, len(sockets)) if source else None
            optional = {"shape": 7} if socket in schema["input_order"].get("optional", []) else {}
            sockets.append({"name": socket, "type": kind, "link": number, **optional})
    for widget, kind, options, is_widget in all_inputs:
        if is_widget:
            values.append(node.inputs.get(widget, options.get("default")))
            sockets.append({"name": widget, "type": kind, "link": None, "widget": {"name": widget}})
            if options.get("control_after_generate"):
                values.append("randomize")
            if options.get("image_upload"):
                values.append("image")
    properties: dict[str, Any] = {"Node name for S&R": node.kind}
    if downloads := [model.as_dict() for model in node.models if model.repository]:
        properties["models"] = downloads
    return {
        "id": builder.ids[name],
        "type": node.kind,
        "pos": list(node.position),
        "size": list(node.size),
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": sockets,
        "outputs": [
            {"name": label, "type": kind, "links": (name, slot)}
            for slot, (label, kind) in enumerate(
                zip(schema["output_name"], schema["output"], strict=True)
            )
        ],
        "properties": properties,
        "widgets_values": values,
        **({"title": node.title} if node.title else {}),
    }


def note_node(number: int, workflow: Workflow) -> dict[str, Any]:
    """Returns the note that explains the workflow."""
    return {
        "id": number,
        "type": "MarkdownNote",
        "pos": list(workflow.note_position),
        "size": list(workflow.note_size),
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "title": workflow.title,
        "properties": {},
        "widgets_values": [workflow.note],
        "color": "#222",
        "bgcolor": "#000",
    }


def to_graph(workflow: Workflow, schemas: dict[str, Schema]) -> dict[str, Any]:
    """Returns the workflow in the editor's format."""
    ids = {name: i + 1 for i, name in enumerate(workflow.nodes)}
    builder = GraphBuilder(schemas, ids)
    nodes = [
        graph_node(builder, name, node, order)
        for order, (name, node) in enumerate(workflow.nodes.items())
    ]
    for node in nodes:
        for output in node["outputs"]:
            output["links"] = builder.targets.get(output["links"], [])
    nodes.append(note_node(len(ids) + 1, workflow))
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, workflow.name)),
        "revision": 0,
        "last_node_id": len(nodes),
        "last_link_id": len(builder.links),
        "nodes": nodes,
        "links": builder.links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def to_api(workflow: Workflow, schemas: dict[str, Schema]) -> dict[str, Any]:
    """Returns the workflow as the queue takes it, with every widget value."""
    ids = {name: str(i + 1) for i, name in enumerate(workflow.nodes)}
    prompt = {}
    for name, node in workflow.nodes.items():
        inputs: dict[str, Any] = {}
        for key, _, options, is_widget in inputs_of(schemas[node.kind]):
            value = node.inputs.get(key)
            if is_widget:
                inputs[key] = options.get("default") if value is None else value
            elif value is not None:
                inputs[key] = [ids[value[0]], value[1]]
        title = node.title or schemas[node.kind]["display_name"]
        prompt[ids[name]] = {
            "class_type": node.kind,
            "inputs": inputs,
            "_meta": {"title": title},
        }
    return prompt


def write(path: Path, content: Any) -> None:
    """Writes readable JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def main() -> None:
    """Writes all workflows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", help="of a running ComfyUI, or a file with its object_info")
    address = parser.parse_args().address
    if address.startswith("http"):
        with urllib.request.urlopen(f"{address}/object_info") as answer:
            schemas = json.load(answer)
    else:
        schemas = json.loads(Path(address).read_text("utf-8"))
    for workflow in WORKFLOWS:
        write(FOLDER / f"{workflow.name}.json", to_graph(workflow, schemas))
        write(FOLDER / "api" / f"{workflow.name}.json", to_api(workflow, schemas))


if __name__ == "__main__":
    main()
