"""Every template loads, survives save and reload, and runs, in every way of running the editor."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.comfy.server import REPOSITORY

from .editor import Editor
from .workflows import nodes, templates

pytestmark = pytest.mark.browser

SIMILAR = ("Video to Video", "Timed Prompts", "Regional Prompts", "Continued Clips")
"""In names of templates whose nodes and links are of the kinds that others have."""

TEMPLATES = [
    path
    for path in templates(REPOSITORY / "workflows")
    if not any(name in path.stem for name in SIMILAR)
]
TO_RUN = [
    next(path for path in TEMPLATES if ("LoadImage" in path.read_text("utf-8")) == with_image)
    for with_image in (False, True)
]
"""All give the editor's server what tests/comfy/test_workflows.py gives it, and tests all of."""

TOY_RUN = {
    "size": "width x height",
    "seconds": 0,
    "width": 64,
    "height": 64,
    "length": 5,
    "steps": 2,
}
"""Widgets of any node that are made small, so that a run takes a second on a CPU."""


@pytest.fixture(params=TEMPLATES, ids=lambda path: path.stem)
def template(request: pytest.FixtureRequest) -> dict[str, Any]:
    path: Path = request.param
    return json.loads(path.read_text(encoding="utf-8"))


def is_ours(kind: str) -> bool:
    """Whether a node is of this pack. Newer ComfyUIs append inputs to their own, as 0.33 does."""
    return kind.startswith("WanDuet")


def widget_values(workflow: dict[str, Any]) -> dict[str, Any]:
    """Returns the saved widget values by node id; those of a subgraph's node are also inside."""
    subgraphs = {subgraph["id"] for subgraph in workflow["definitions"]["subgraphs"]}
    return {
        str(node["id"]): node.get("widgets_values") or []  # nodes without any have no list
        for node in nodes(workflow)
        if node["type"] not in subgraphs
    }


def as_known(workflow: dict[str, Any], template: dict[str, Any]) -> dict[str, Any]:
    """Returns a workflow's widget values, of ComfyUI's own nodes as many as the template has."""
    known = widget_values(template)
    others = {str(node["id"]) for node in nodes(workflow) if not is_ours(node["type"])}
    return {
        key: values[: len(known.get(key, values))] if key in others else values
        for key, values in widget_values(workflow).items()
    }


def without_seeds(values: dict[str, Any]) -> dict[str, Any]:
    """Leaves out what follows a "randomize": the frontend draws a new seed after each run."""
    return {
        key: value[1:] if isinstance(value, list) and "randomize" in value else value
        for key, value in values.items()
    }


def test_loads_survives_a_reload_and_exports_the_api_workflow(
    editor: Editor, results: Path | None, template: dict[str, Any], request
):
    if editor.mode.name == "newest-canvas":
        pytest.skip("the newest frontend loads, saves and exports by one code, whatever draws it")
    path: Path = request.node.callspec.params["template"]
    editor.load(template)
    editor.call("fitView")
    editor.settle()
    editor.screenshot(results, f"template-{path.stem}")

    assert editor.call("missingNodes") == []
    assert editor.call("unknownChoices") == []
    assert as_known(editor.serialize(), template) == widget_values(template)
    api = json.loads((REPOSITORY / "workflows" / "api" / path.name).read_text(encoding="utf-8"))
    assert content(editor.api_prompt(), api) == content(api, api)

    saved = editor.serialize()
    editor.load(saved)
    assert editor.serialize() == saved


def content(prompt: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Returns a prompt's nodes, of ComfyUI's own only inputs that a known prompt has there.

    Of a video, an older frontend counts its player as one.
    """
    return {
        key: (
            kind := node["class_type"],
            {
                name: value
                for name, value in node["inputs"].items()
                if is_ours(kind) or name in known.get(key, node)["inputs"]
            },
        )
        for key, node in prompt.items()
    }


@pytest.mark.parametrize("template", TO_RUN, ids=lambda path: path.stem, indirect=True)
def test_runs(editor: Editor, results: Path | None, template: dict[str, Any], request):
    editor.load(template)
    editor.call("setWidgetsEverywhere", TOY_RUN)
    before = widget_values(editor.serialize())
    end = editor.run()
    assert end["type"] == "execution_success", end

    editor.settle()
    editor.call("fitView")
    editor.settle()
    editor.screenshot(results, f"run-{request.node.callspec.params['template'].stem}")
    editor.load(editor.serialize())
    after = widget_values(editor.serialize())
    assert without_seeds(after) == without_seeds(before)
