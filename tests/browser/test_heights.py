"""A node is as high as before, whatever happens to it while panels are below its widgets."""

from contextlib import nullcontext
from pathlib import Path

import pytest

from .editor import Editor, saved
from .hidden_inputs import hidden_inputs
from .test_schedule_panel import add_pair

pytestmark = pytest.mark.browser

NO_STEPS = {"denoise": 0.0}
"""Makes a problem of the sampler."""


def wait_for_plan(editor: Editor, sampler: str) -> None:
    """Waits until a sampler says what a run would be, which newer editors draw only if it shows."""
    editor.page.wait_for_function(
        "(id) => wanduetTest.allWidgetNames(id).includes('wanduet_plan')", arg=sampler
    )
    editor.settle()


def wait_for_problems(editor: Editor, sampler: str, count: int) -> None:
    """Waits until a node, which may be collapsed, has so many."""
    condition = "([id, count]) => wanduetTest.problems(id).length === count"
    editor.page.wait_for_function(condition, arg=[sampler, count])
    editor.settle()


def collapse(editor: Editor, node_id: str) -> None:
    """Collapses a node, or opens it again."""
    editor.page.evaluate("(id) => wanduetTest.node(id).collapse()", node_id)
    editor.settle()


def saved_height(editor: Editor, node_id: str) -> float:
    """Returns a node's height in the workflow as it would be saved."""
    [node] = [one for one in editor.serialize()["nodes"] if str(one["id"]) == str(node_id)]
    return node["size"][1]


@pytest.mark.parametrize("hides", [False, True], ids=["shown", "hidden"])
def test_panels_of_a_collapsed_node_leave_no_height(editor: Editor, hides: bool):
    if hides and not editor.mode.nodes2:
        pytest.skip("Only Nodes 2.0 hides advanced inputs.")
    with hidden_inputs(editor) if hides else nullcontext():
        _, sampler = add_pair(editor)
        wait_for_plan(editor, sampler)
        height, in_file = editor.call("height", sampler), saved_height(editor, sampler)

        collapse(editor, sampler)
        editor.set_widgets(sampler, NO_STEPS)
        wait_for_problems(editor, sampler, 1)
        collapse(editor, sampler)
        assert editor.call("height", sampler) > height
        assert saved_height(editor, sampler) == in_file
        editor.set_widgets(sampler, {"denoise": 1.0})
        wait_for_problems(editor, sampler, 0)
        assert editor.call("height", sampler) == height

        collapse(editor, sampler)
        editor.load(editor.serialize())
        wait_for_plan(editor, sampler)
        collapse(editor, sampler)
        assert editor.call("height", sampler) == height
        assert saved_height(editor, sampler) == in_file


def test_a_height_below_that_of_panels_is_saved_as_it_is(editor: Editor):
    _, sampler = add_pair(editor)
    wait_for_plan(editor, sampler)
    in_file = saved_height(editor, sampler)
    editor.set_widgets(sampler, NO_STEPS)
    wait_for_problems(editor, sampler, 1)
    width = editor.serialize()["nodes"][-1]["size"][0]
    # In one call, before the editor draws and makes the node higher.
    set_and_save = """([id, width, height]) => {
        wanduetTest.node(id).setSize([width, height]);
        return wanduetTest.node(id).serialize().size[1];
    }"""
    assert editor.page.evaluate(set_and_save, [sampler, width, 50]) == 50
    assert editor.page.evaluate(set_and_save, [sampler, width, 900]) < 900

    editor.page.evaluate(set_and_save, [sampler, width, 50])
    editor.load(editor.serialize())
    editor.set_widgets(sampler, {"denoise": 1.0})
    wait_for_problems(editor, sampler, 0)
    assert saved_height(editor, sampler) == pytest.approx(in_file, abs=40)


def test_a_height_below_all_that_a_node_holds_does_not_grow(editor: Editor):
    _, sampler = add_pair(editor)
    wait_for_plan(editor, sampler)
    width = editor.serialize()["nodes"][-1]["size"][0]
    editor.call("resize", sampler, width, 50)
    editor.settle()
    height, in_file = [], []
    for denoise, count in ((0.0, 1), (1.0, 0)) * 3:
        editor.set_widgets(sampler, {"denoise": denoise})
        wait_for_problems(editor, sampler, count)
        height.append(editor.call("height", sampler))
        in_file.append(saved_height(editor, sampler))
    assert height[::2] == [height[0]] * 3
    assert height[1::2] == [height[1]] * 3
    assert height[0] > height[1]
    assert in_file == [in_file[0]] * 6
    if editor.mode.nodes2:  # the canvas draws it higher
        assert height[1] == in_file[0] == 50


def test_panels_that_change_in_any_order_leave_no_height(editor: Editor):
    """The plan is shown anew with another text, below a problem that was shown after it."""
    _, sampler = add_pair(editor)
    wait_for_plan(editor, sampler)
    width = editor.serialize()["nodes"][-1]["size"][0]
    editor.set_widgets(sampler, {"denoise": 0.0})
    wait_for_problems(editor, sampler, 1)
    editor.call("resize", sampler, width, 50)
    editor.settle()
    in_file = []
    for steps, denoise in ((2, 0.0), (2, 1.0), (0, 1.0), (0, 0.0), (2, 0.0), (0, 1.0)):
        editor.set_widgets(sampler, {"steps": steps, "denoise": denoise})
        wait_for_problems(editor, sampler, int(not denoise))
        in_file.append(saved_height(editor, sampler))
    assert in_file == [in_file[0]] * len(in_file)


def is_filled(editor: Editor, sampler: str) -> bool:
    """Whether its panels are as high as they ask for: they share the room that a node leaves."""
    heights = editor.call("panelHeights", sampler)
    assert heights.keys() == {"wanduet_schedule", "wanduet_plan"}
    return all(drawn == pytest.approx(wanted, abs=1) for drawn, wanted in heights.values())


def draw_with(editor: Editor, nodes2: bool) -> None:
    """Has the editor draw with the other renderer, as a person chooses in its menu."""
    editor.call("setSetting", "Comfy.VueNodes.Enabled", nodes2)
    editor.page.wait_for_function(
        "(html) => !!document.querySelector('[data-node-id]') === html", arg=nodes2
    )
    editor.call("move", editor.serialize()["nodes"][0]["id"], 60, 80)  # the canvas draws again
    editor.call("frames", 10)
    editor.settle()


def test_what_the_canvas_makes_higher_leaves_no_room_in_nodes2(
    editor: Editor, results: Path | None
):
    if not editor.mode.nodes2:
        pytest.skip("Only Nodes 2.0 hides advanced inputs.")
    with hidden_inputs(editor):
        _, sampler = add_pair(editor)
        wait_for_plan(editor, sampler)
        height, in_file = editor.call("height", sampler), saved_height(editor, sampler)
        draw_with(editor, nodes2=False)
        try:
            assert editor.call("height", sampler) > height + 100
            of_canvas = saved(editor.serialize())
        finally:
            draw_with(editor, nodes2=True)
        assert is_filled(editor, sampler)
        assert editor.call("height", sampler) == height
        assert saved_height(editor, sampler) == in_file

        editor.load(of_canvas)
        wait_for_plan(editor, sampler)
        editor.screenshot(results, "of-canvas")
        assert is_filled(editor, sampler)
        assert editor.call("height", sampler) == height
        assert saved_height(editor, sampler) == in_file

        show = "([id, on]) => { wanduetTest.node(id).showAdvanced = on; }"
        editor.page.evaluate(show, [sampler, True])
        editor.load(editor.serialize())
        wait_for_plan(editor, sampler)
        editor.page.evaluate(show, [sampler, False])
        editor.settle()
        assert is_filled(editor, sampler)


def test_a_height_that_a_person_chose_is_kept(editor: Editor):
    """Also one that the inputs would take that Nodes 2.0 hides."""
    with hidden_inputs(editor):
        _, sampler = add_pair(editor)
        wait_for_plan(editor, sampler)
        width = editor.serialize()["nodes"][-1]["size"][0]
        editor.call("resize", sampler, width, editor.call("height", sampler) + 60)
        editor.settle()
        height, in_file = editor.call("height", sampler), saved_height(editor, sampler)
        for _ in range(2):
            editor.load(editor.serialize())
            wait_for_plan(editor, sampler)
            assert saved_height(editor, sampler) == in_file
            if editor.mode.nodes2:  # on the canvas the plan takes what room there is
                assert editor.call("height", sampler) == height


def test_panels_show_what_undo_brought_back(editor: Editor):
    """It makes nodes anew with their numbers, and Nodes 2.0 keeps what it has drawn of them."""
    _, sampler = add_pair(editor)
    before = saved(editor.serialize())
    editor.set_widgets(sampler, {"steps": 12})
    editor.settle()
    shown = editor.page.locator(".wanduet-split")
    assert shown.all_text_contents() == ["High 8 | Low 4"]

    tab = "app.extensionManager.workflow.activeWorkflow"
    undo = f"(state) => app.loadGraphData(state, false, false, {tab})"
    editor.page.evaluate(undo, before)
    editor.settle()
    assert shown.all_text_contents() == ["High 26 | Low 14"]
    editor.set_widgets(sampler, {"steps": 20})
    editor.settle()
    assert shown.all_text_contents() == ["High 13 | Low 7"]


PASTE = """(id) => {
    app.canvas.copyToClipboard([wanduetTest.node(id)]);
    app.canvas.pasteFromClipboard({});
    return app.graph.nodes.at(-1).id;
}"""

UNPACK = """() => {
    app.canvas.setGraph(app.graph);
    const known = app.graph.nodes.map(({ id }) => id);
    app.graph.unpackSubgraph(app.graph.nodes.find((node) => node.subgraph));
    return app.graph.nodes.find(({ id }) => !known.includes(id)).id;
}"""


def test_copies_and_subgraphs_keep_heights(editor: Editor):
    with hidden_inputs(editor):
        _, sampler = add_pair(editor)
        wait_for_plan(editor, sampler)
        height, in_file = editor.call("height", sampler), saved_height(editor, sampler)
        pasted = editor.page.evaluate(PASTE, sampler)
        assert saved_height(editor, pasted) == in_file
        inside = editor.call("moveIntoSubgraph", [sampler], "WanDuetMoESampler")
        wait_for_plan(editor, inside)
        assert editor.call("height", inside) == height
        unpacked = editor.page.evaluate(UNPACK)
        wait_for_plan(editor, unpacked)
        assert editor.call("height", unpacked) == height
        assert saved_height(editor, unpacked) == in_file
    if editor.mode.frontend == "own":
        editor.open()  # 1.32 leaves hidden elements of a subgraph on the page
