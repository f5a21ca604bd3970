"""A workflow description in the editor's formats, and in that of the queue.

A template has one node for the model's whole graph, a subgraph, beside what loads images and saves
the video. A blueprint is that node alone, which the editor lists among the nodes.
"""

import re
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from workflow_specs import OUTSIDE, Node, Port, Workflow

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
Schema = dict[str, Any]
Schemas = dict[str, Schema]

GRAPH_INPUT, GRAPH_OUTPUT = -10, -20
"""Ids of the pseudo nodes that have a subgraph's inputs and outputs."""

OUTPUT_X, BESIDE = 1690, 80
"""Where a subgraph's outputs are, or so far right of the nodes if those reach beyond."""

LINKED = "-1"
"""In `proxyWidgets`: the widget of a subgraph's input. Otherwise the id of a node inside."""

PYPROJECT = (Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8")
VERSIONS = {
    "wan-duet": re.findall(r'^version = "(.*)"', PYPROJECT, re.MULTILINE)[0],
    "comfy-core": re.findall(r'^requires-comfyui = ">=(.*)"', PYPROJECT, re.MULTILINE)[0],
}
"""By registry id: what a shared workflow offers to install."""


@dataclass(frozen=True)
class Layout:
    """Numbers of a workflow's nodes: those inside first, then the subgraph, then the others."""

    inside: dict[str, int]
    host: int
    outside: dict[str, int]

    @staticmethod
    def of(workflow: Workflow) -> "Layout":
        """Numbers the nodes; a number occurs once, whatever graph its node is in."""
        outside = [name for name, node in workflow.nodes.items() if node.kind in OUTSIDE]
        inside = [name for name in workflow.nodes if name not in outside]
        host = len(inside) + 1
        return Layout(
            {name: number for number, name in enumerate(inside, 1)},
            host,
            {name: number for number, name in enumerate(outside, host + 1)},
        )

    def key(self, name: str) -> str:
        """Returns a node's id in the queue."""
        known = self.inside.get(name)
        return str(self.outside[name]) if known is None else f"{self.host}:{known}"


@dataclass
class GraphBuilder:
    """Numbers the links of one graph."""

    links: list[list[Any]] = field(default_factory=list)
    targets: dict[tuple[int, int], list[int]] = field(default_factory=dict)

    def link(self, source: tuple[int, int], target: tuple[int, int], kind: str) -> int:
        """Adds a link between two (node, slot) and returns its number."""
        number = len(self.links) + 1
        self.links.append([number, *source, *target, kind])
        self.targets.setdefault(source, []).append(number)
        return number

    def as_objects(self) -> list[dict[str, Any]]:
        """Returns the links as subgraphs have them."""
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        return [dict(zip(keys, link, strict=True)) for link in self.links]


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


def graph_node(
    number: int,
    node: Node,
    schema: Schema,
    sources: dict[str, tuple[int, int]],
    builder: GraphBuilder,
) -> dict[str, Any]:
    """Returns a node in the editor's format, with its links registered.

    Args:
        number: the node's id.
        node: its description.
        schema: of its kind.
        sources: (node, slot) by the name of the input that is linked to it.
        builder: of the graph that it is in.
    """
    sockets: list[dict[str, Any]] = []
    values: list[Any] = []
    optional = schema["input_order"].get("optional", [])
    ordered = sorted(inputs_of(schema), key=lambda row: row[3])
    for name, kind, options, is_widget in ordered:
        source = sources.get(name)
        link = builder.link(source, (number, len(sockets)), kind) if source else None
        more = {"widget": {"name": name}} if is_widget else {"shape": 7} if name in optional else {}
        sockets.append({"name": name, "type": kind, "link": link, **more})
        if not is_widget:
            continue
        values.append(node.inputs.get(name, options.get("default")))
        if options.get("control_after_generate"):
            values.append("randomize")
        if options.get("image_upload") or options.get("video_upload"):
            values.append("image")
    pack = "wan-duet" if node.kind.startswith("WanDuet") else "comfy-core"
    properties: dict[str, Any] = {
        "Node name for S&R": node.kind,
        "cnr_id": pack,
        "ver": VERSIONS[pack],
    }
    if downloads := [model.as_dict() for model in node.models if model.repository]:
        properties["models"] = downloads
    return {
        "id": number,
        "type": node.kind,
        "pos": list(node.position),
        "size": list(node.size),
        "flags": {},
        "order": number - 1,
        "mode": 0,
        "inputs": sockets,
        "outputs": [
            {"name": label, "type": kind, "links": (number, slot)}
            for slot, (label, kind) in enumerate(
                zip(schema["output_name"], schema["output"], strict=True)
            )
        ],
        "properties": properties,
        "widgets_values": values,
        **({"title": node.title} if node.title else {}),
    }


def fill_outputs(nodes: list[dict[str, Any]], builder: GraphBuilder) -> None:
    """Puts the links into the outputs that they come from."""
    for node in nodes:
        for output in node["outputs"]:
            output["links"] = builder.targets.get(output["links"], [])


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
        "title": workflow.name,
        "properties": {},
        "widgets_values": [workflow.note],
    }


def port_kind(port: Port, workflow: Workflow, schemas: Schemas) -> str:
    """Returns the type of a subgraph's input."""
    rows = inputs_of(schemas[workflow.nodes[port.node].kind])
    return next(kind for name, kind, _, _ in rows if name == port.input)


def port_value(port: Port, workflow: Workflow, schemas: Schemas) -> Any:
    """Returns the value of a subgraph's widget."""
    node = workflow.nodes[port.node]
    rows = inputs_of(schemas[node.kind])
    default = next(options.get("default") for name, _, options, _ in rows if name == port.input)
    return node.inputs.get(port.input, default)


def subgraph_id(workflow: Workflow) -> uuid.UUID:
    """Returns the subgraph's id, which no graph may have that it is in."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"subgraph {workflow.blueprint}")


def subgraph(workflow: Workflow, layout: Layout, schemas: Schemas) -> dict[str, Any]:
    """Returns the definition of a workflow's subgraph."""
    builder, nodes = GraphBuilder(), []
    slots = {
        (node, port.input): slot
        for slot, port in enumerate(workflow.ports)
        for node in (port.node, *port.also)
    }
    for name, number in layout.inside.items():
        node = workflow.nodes[name]
        sources = {
            key: (layout.inside[value[0]], value[1])
            for key, value in node.inputs.items()
            if isinstance(value, tuple) and value[0] in layout.inside
        }
        ports = {key: (GRAPH_INPUT, slot) for (of, key), slot in slots.items() if of == name}
        nodes.append(graph_node(number, node, schemas[node.kind], sources | ports, builder))
    builder.link((layout.inside["video"], 0), (GRAPH_OUTPUT, 0), "VIDEO")
    fill_outputs(nodes, builder)
    identity = subgraph_id(workflow)
    right = max(OUTPUT_X, *(node["pos"][0] + node["size"][0] + BESIDE for node in nodes))

    def boundary(name: str, kind: str, links: list[int], x: int, row: int) -> dict[str, Any]:
        made = uuid.uuid5(identity, f"{kind} {name}")
        position = [x, 20 + 20 * row]
        return {"id": str(made), "name": name, "type": kind, "linkIds": links, "pos": position}

    return {
        "id": str(identity),
        "version": 1,
        "state": {
            "lastGroupId": 0,
            "lastNodeId": layout.host + len(layout.outside) + 1,
            "lastLinkId": len(builder.links),
            "lastRerouteId": 0,
        },
        "revision": 0,
        "config": {},
        "name": workflow.blueprint,
        "inputNode": {"id": GRAPH_INPUT, "bounding": [-260, 0, 140, 40 + 20 * len(workflow.ports)]},
        "outputNode": {"id": GRAPH_OUTPUT, "bounding": [right, 0, 120, 60]},
        "inputs": [
            boundary(
                port.name,
                port_kind(port, workflow, schemas),
                builder.targets[(GRAPH_INPUT, slot)],
                -140,
                slot,
            )
            for slot, port in enumerate(workflow.ports)
        ],
        "outputs": [boundary("video", "VIDEO", [len(builder.links)], right + 20, 0)],
        "widgets": [],
        "nodes": nodes,
        "groups": [],
        "links": builder.as_objects(),
        "extra": {},
        "category": "Wan 2.2",
        "description": workflow.description,
    }


def host_node(
    workflow: Workflow, layout: Layout, schemas: Schemas, builder: GraphBuilder
) -> dict[str, Any]:
    """Returns the node that stands for the subgraph."""
    inputs, widgets = [], [port for port in workflow.ports if port.is_widget]
    for slot, port in enumerate(workflow.ports):
        source = layout.outside.get(port.name)
        kind = port_kind(port, workflow, schemas)
        target = (layout.host, slot)
        link = None if source is None else builder.link((source, port.output), target, kind)
        more = {"widget": {"name": port.name}} if port.is_widget else {"shape": 7}
        inputs.append({"name": port.name, "type": kind, "link": link, **more})
    sampler = str(layout.inside["sampler"])
    return {
        "id": layout.host,
        "type": str(subgraph_id(workflow)),
        "pos": list(workflow.host_position),
        "size": [400, 380],
        "flags": {},
        "order": layout.host - 1,
        "mode": 0,
        "inputs": inputs,
        "outputs": [{"name": "video", "type": "VIDEO", "links": (layout.host, 0)}],
        "properties": {
            "proxyWidgets": [
                *([LINKED, port.name] for port in widgets),
                [sampler, "seed"],
                [sampler, "control_after_generate"],
            ],
            "cnr_id": "wan-duet",
            "ver": VERSIONS["wan-duet"],
        },
        "widgets_values": [port_value(port, workflow, schemas) for port in widgets],
        "title": workflow.blueprint,
    }


def graph(
    name: str, nodes: list[dict[str, Any]], builder: GraphBuilder, inside: dict[str, Any]
) -> dict[str, Any]:
    """Returns a file of the editor."""
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, name)),
        "revision": 0,
        "last_node_id": max(inside["state"]["lastNodeId"], *(node["id"] for node in nodes)),
        "last_link_id": len(builder.links),
        "nodes": nodes,
        "links": builder.links,
        "groups": [],
        "definitions": {"subgraphs": [inside]},
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def to_graph(workflow: Workflow, schemas: Schemas) -> dict[str, Any]:
    """Returns a template: the subgraph, what is around it, and a note."""
    layout, builder = Layout.of(workflow), GraphBuilder()
    nodes = [host_node(workflow, layout, schemas, builder)]
    for name, number in layout.outside.items():
        node = workflow.nodes[name]
        links = {
            key: (layout.host, 0) for key, value in node.inputs.items() if isinstance(value, tuple)
        }
        nodes.append(graph_node(number, node, schemas[node.kind], links, builder))
    fill_outputs(nodes, builder)
    nodes.append(note_node(layout.host + len(layout.outside) + 1, workflow))
    return graph(workflow.name, nodes, builder, subgraph(workflow, layout, schemas))


def to_blueprint(workflow: Workflow, schemas: Schemas) -> dict[str, Any]:
    """Returns the subgraph alone, for the list of nodes."""
    layout, builder = replace(Layout.of(workflow), outside={}), GraphBuilder()
    nodes = [{**host_node(workflow, layout, schemas, builder), "pos": [0, 0]}]
    fill_outputs(nodes, builder)
    inside = subgraph(workflow, layout, schemas)
    made = graph(f"blueprint {workflow.blueprint}", nodes, builder, inside)
    return {**made, "extra": {"BlueprintDescription": workflow.description}}


def to_api(workflow: Workflow, schemas: Schemas) -> dict[str, Any]:
    """Returns the workflow as the queue takes it, with every widget value."""
    layout = Layout.of(workflow)
    prompt = {}
    for name, node in workflow.nodes.items():
        inputs: dict[str, Any] = {}
        for key, _, options, is_widget in inputs_of(schemas[node.kind]):
            value = node.inputs.get(key)
            if is_widget:
                inputs[key] = options.get("default") if value is None else value
            elif value is not None:
                inputs[key] = [layout.key(value[0]), value[1]]
        title = node.title or schemas[node.kind]["display_name"]
        prompt[layout.key(name)] = {
            "class_type": node.kind,
            "inputs": inputs,
            "_meta": {"title": title},
        }
    return prompt
