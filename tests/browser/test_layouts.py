"""No node of a template lies over another as the editor draws it, which is higher than in its file.

After a run nodes are higher still, since they say what they did. Nodes 2.0 draws every
node at least as high as the canvas does, panels and widgets included.
"""

import json
from itertools import combinations
from pathlib import Path

import pytest

from tests.comfy.server import REPOSITORY

from .editor import Editor
from .test_templates import TOY_RUN
from .workflows import templates

pytestmark = pytest.mark.browser

WITH_LAYOUTS_OF_THEIR_OWN = (
    "Wan 2.2 Long Video (SVI 2 Pro) 14B",
    "Wan 2.2 LoRA Strength per Step 14B",
    "Wan 2.2 Regional Prompts 14B",
)
"""Templates that have more below their loaders, which say what they loaded, than others."""

SPEAKERS = ("experts", "text encoder", "VAE", "size")
"""Nodes of each of these templates that say after a run what they loaded or made."""

Box = tuple[float, float, float, float]
"""Left, top, width and height on the screen, a node's title included."""

LAYER = """(number) => {
    const hosts = app.graph.nodes.filter((node) => node.subgraph);
    const graph = [app.graph, ...hosts.map((host) => host.subgraph)][number];
    if (graph) app.canvas.setGraph(graph);
    return Boolean(graph);
}"""
"""Shows the graph (0) or one of the subgraphs that are in it, if there is such a one."""

DRAWN = """() => {
    const { graph, ds } = app.canvas;
    const box = ({ x, y, width, height }) => [x, y, width, height];
    const nodes = graph.nodes.map((node) => {
        const element = document.querySelector(`[data-node-id="${node.id}"]`);
        return [`${node.title} (${node.id})`, box(element.getBoundingClientRect())];
    });
    const canvas = app.canvas.canvas.getBoundingClientRect();
    const ends = [graph.inputNode, graph.outputNode].filter(Boolean).map((end) => {
        const [x, y] = ds.convertOffsetToCanvas(end.pos);
        const [width, height] = [...end.size].map((side) => side * ds.scale);
        return [end.constructor.name, [canvas.x + x, canvas.y + y, width, height]];
    });
    return [...nodes, ...ends];
}"""
"""What Nodes 2.0 shows, by name; a subgraph's inputs and outputs are drawn on the canvas."""


def lie_over_each_other(one: Box, other: Box) -> bool:
    """Whether two boxes share more than an edge: a pixel and more in both directions."""
    return all(
        min(one[axis] + one[axis + 2], other[axis] + other[axis + 2]) - max(one[axis], other[axis])
        >= 1
        for axis in (0, 1)
    )


def overlaps(editor: Editor) -> list[str]:
    """Returns which two lie over each other, in the graph that is open or in a subgraph of it."""
    over, number = [], 0
    while editor.page.evaluate(LAYER, number):
        editor.call("fitView")  # newer editors draw some panels only where they show
        editor.settle()
        over += [
            f"{one} and {other}"
            for (one, box), (other, other_box) in combinations(editor.page.evaluate(DRAWN), 2)
            if lie_over_each_other(box, other_box)
        ]
        number += 1
    assert number == 2  # a template has one subgraph
    return over


def test_nodes_of_templates_do_not_lie_over_each_other(editor: Editor, results: Path | None):
    if not editor.mode.nodes2:
        pytest.skip("the canvas draws no node higher than Nodes 2.0")
    found = {}
    for path in templates(REPOSITORY / "workflows"):
        editor.clear()
        editor.load(json.loads(path.read_text(encoding="utf-8")))
        found[path.stem] = overlaps(editor)
        editor.screenshot(results, f"layout-{path.stem}")
    assert {name: over for name, over in found.items() if over} == {}


@pytest.mark.parametrize("name", WITH_LAYOUTS_OF_THEIR_OWN)
def test_nodes_do_not_lie_over_each_other_after_a_run(
    editor: Editor, results: Path | None, name: str
):
    if not editor.mode.nodes2:
        pytest.skip("the canvas draws no node higher than Nodes 2.0")
    path = REPOSITORY / "workflows" / f"{name}.json"
    editor.load(json.loads(path.read_text(encoding="utf-8")))
    editor.call("setWidgetsEverywhere", TOY_RUN)
    editor.server.free()  # what is cached says nothing again
    end = editor.run()
    assert end["type"] == "execution_success", end
    editor.settle()
    assert overlaps(editor) == []
    assert editor.page.locator(".wanduet-said").count() >= len(SPEAKERS)
    editor.screenshot(results, f"layout-after-run-{name}")
