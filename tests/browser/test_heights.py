"""A node is as high as before, whatever happens to it while panels are below its widgets."""

import pytest

from .editor import Editor
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


def test_panels_of_a_collapsed_node_leave_no_height(editor: Editor):
    _, sampler = add_pair(editor)
    wait_for_plan(editor, sampler)
    height, in_file = editor.call("height", sampler), saved_height(editor, sampler)

    collapse(editor, sampler)
    editor.set_widgets(sampler, NO_STEPS)
    wait_for_problems(editor, sampler, 1)
    assert saved_height(editor, sampler) == in_file
    collapse(editor, sampler)
    assert editor.call("height", sampler) > height
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
