"""Every workflow in API format runs to a readable video of the right size, length and rate."""

import json
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.toy.make_checkpoints import SUBSTITUTES

from .server import REPOSITORY, ComfyServer
from .videos import saved_video

pytestmark = pytest.mark.comfy

WORKFLOWS = sorted((REPOSITORY / "workflows" / "api").glob("*.json"))
FOR_LARGE_MODELS = [path for path in WORKFLOWS if "Tiny" not in path.stem]
"""Those whose models are not in the pack; test_tiny runs the others."""

CORE = {
    *("LoadImage", "LoadVideo", "GetVideoComponents", "CreateVideo", "SaveVideo"),
    *("ImageFromBatch", "ImageScale", "VAEEncode", "SetLatentNoiseMask", "InvertMask"),
    *("ConditioningSetMask", "ConditioningCombine", "PairConditioningSetProperties"),
    *("CreateHookLora", "CreateHookKeyframe", "SetHookKeyframes", "CombineHooks2"),
}
SMALL = {"size": "width x height", "seconds": 0.0, "length": 9, "steps": 3}
IMAGE_SIZE = (96, 64)
FRAMES = {"Continued Clips": 9 + 8 + 8, "SVI 2 Pro": 9 + 4 + 4, "Seamless Loop": 4 * 3}
"""Of templates whose videos have other lengths than their clips."""

TITLE = 30
"""Pixels that a node's title has above its position."""

Box = tuple[list[float], list[float]]
"""Position and size of a node, without its title, both (x, y)."""


def small(workflow: dict[str, Any], image: str) -> dict[str, Any]:
    """Puts toy models, an image and a small video into a workflow."""
    area = {"width": 96, "height": 64}
    for node in workflow.values():
        for name, value in node["inputs"].items():
            if isinstance(value, str):
                node["inputs"][name] = SUBSTITUTES.get(value, value)
            node["inputs"][name] = {**SMALL, **area}.get(name, node["inputs"][name])
        if node["class_type"] == "LoadImage" and node["inputs"]["image"].endswith(".jpg"):
            node["inputs"]["image"] = image
    return workflow


@pytest.fixture(scope="module")
def image(comfy_server: ComfyServer, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("image") / "gradient.png"
    ramp = np.linspace(0, 255, IMAGE_SIZE[0], dtype=np.uint8)
    Image.fromarray(np.tile(ramp, (IMAGE_SIZE[1], 1))).convert("RGB").save(path)
    return comfy_server.upload_image(path)


@pytest.mark.parametrize("path", FOR_LARGE_MODELS, ids=lambda path: path.stem)
def test_makes_a_video(comfy_server: ComfyServer, image: str, path: Path):
    result = comfy_server.run(small(json.loads(path.read_text("utf-8")), image))

    assert result.status == "success", result.error
    frames, rate = saved_video(comfy_server, result)
    own = [count for name, count in FRAMES.items() if name in path.stem]
    assert len(frames) == (own or [SMALL["length"]])[0]
    assert frames[0].shape == (64, 96, 3)
    assert rate == Fraction(24 if "5B" in path.stem else 16)
    assert np.std(frames[0]) > 1
    assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 1


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_uses_our_nodes_and_core_s_files_and_video(path: Path):
    workflow = json.loads(path.read_text("utf-8"))
    kinds = {node["class_type"] for node in workflow.values()}
    core = {kind for kind in kinds if not kind.startswith("WanDuet")}
    assert core <= CORE
    assert (REPOSITORY / "workflows" / path.name).is_file()


def test_every_workflow_has_both_formats_and_a_thumbnail():
    graphs = {path.stem for path in (REPOSITORY / "workflows").glob("*.json")}
    assert graphs == {path.stem for path in WORKFLOWS}
    assert graphs == {path.stem for path in (REPOSITORY / "workflows").glob("*.jpg")}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_template_is_a_blueprint_that_is_listed(path: Path, comfy_server: ComfyServer):
    graph = json.loads((REPOSITORY / "workflows" / path.name).read_text("utf-8"))
    (inside,) = graph["definitions"]["subgraphs"]
    outside = {node["type"] for node in graph["nodes"]}
    assert outside <= {inside["id"], "LoadImage", "LoadVideo", "SaveVideo", "MarkdownNote"}

    listed = comfy_server.get("/global_subgraphs")
    (key,) = (key for key, entry in listed.items() if entry["name"] == inside["name"])
    (host,) = json.loads(comfy_server.get(f"/global_subgraphs/{key}")["data"])["nodes"]
    assert host["type"] == inside["id"]

    # A shared workflow says which packs it needs, and in which version.
    packs = [node["properties"]["cnr_id"] for node in inside["nodes"]]
    assert {"wan-duet"} <= set(packs) <= {"wan-duet", "comfy-core"}
    assert all(node["properties"]["ver"] for node in inside["nodes"])


def boxes(graph: dict[str, Any]) -> list[tuple[str, Box]]:
    """Returns what lies in a graph, by kind; a subgraph's inputs and outputs have no title."""
    nodes = [(node["type"], (node["pos"], node["size"])) for node in graph["nodes"]]
    ends = [(name, graph[name]) for name in ("inputNode", "outputNode") if name in graph]
    for name, end in ends:
        x, y, width, height = end["bounding"]
        nodes.append((name, ([x, y + TITLE], [width, height - TITLE])))
    return nodes


def apart(one: Box, other: Box, axis: int, room: float) -> bool:
    """Whether two nodes have so much room between them along an axis."""
    first, second = sorted((one, other), key=lambda box: box[0][axis])
    return first[0][axis] + first[1][axis] + room <= second[0][axis]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_nodes_do_not_lie_over_each_other(path: Path):
    workflow = json.loads((REPOSITORY / "workflows" / path.name).read_text("utf-8"))
    for graph in (workflow, *workflow["definitions"]["subgraphs"]):
        over = [
            (kind, other_kind)
            for (kind, one), (other_kind, other) in combinations(boxes(graph), 2)
            if not (apart(one, other, 0, 0) or apart(one, other, 1, TITLE))
        ]
        assert over == []
