"""Mistakes are said at the node while one edits, and as a toast in full when one runs."""

from pathlib import Path

import pytest

from .editor import Editor
from .test_schedule_panel import add_pair

pytestmark = pytest.mark.browser

CROSSED = "The experts are crossed."


def at_node(editor: Editor, node_id: str) -> list[str]:
    return editor.call("problems", node_id)


def wait_for_problems(editor: Editor, node_id: str, count: int) -> list[str]:
    condition = "([id, count]) => wanduetTest.problems(id).length === count"
    editor.page.wait_for_function(condition, arg=[node_id, count])
    return at_node(editor, node_id)


def cross(editor: Editor, loader: str, sampler: str) -> None:
    editor.call("connect", loader, 1, sampler, "model_high")
    editor.call("connect", loader, 0, sampler, "model_low")


def test_a_mistake_is_said_before_the_run_and_goes_with_it(editor: Editor, results: Path | None):
    loader, sampler = add_pair(editor)
    editor.page.wait_for_selector(".wanduet-plan")
    assert at_node(editor, sampler) == []
    saved = editor.serialize()
    height = editor.call("height", sampler)

    cross(editor, loader, sampler)
    (text,) = wait_for_problems(editor, sampler, 1)
    editor.settle()
    editor.screenshot(results, "problem")
    assert text.startswith(CROSSED)
    assert text.endswith("Swap the two links.")
    assert editor.call("height", sampler) > height
    values = [node["widgets_values"] for node in editor.serialize()["nodes"]]
    assert values == [node["widgets_values"] for node in saved["nodes"]]

    editor.call("connect", loader, 0, sampler, "model_high")
    editor.call("connect", loader, 1, sampler, "model_low")
    wait_for_problems(editor, sampler, 0)
    assert editor.call("height", sampler) == pytest.approx(height, abs=2)

    editor.set_widgets(sampler, {"denoise": 0.0, "start_at_step": 50})
    first, second = wait_for_problems(editor, sampler, 2)
    assert first.startswith("Nothing would be sampled.")
    assert second.startswith("The run ends before its first step.")


CHANGE_MEANWHILE = """(id) => {
    const denoise = wanduetTest.node(id).widgets.find(({ name }) => name === "denoise");
    const { fetch } = window;
    window.fetch = async (...given) => {
        const response = await fetch(...given);
        if (!`${given[0]?.url ?? given[0]}`.includes("/wanduet/check")) return response;
        window.fetch = fetch;
        const answer = await response.json();
        response.json = async () => {
            denoise.value = 1;
            // After the answer was looked at, and before the pause that begins then is over.
            setTimeout(() => { denoise.value = 0; });
            return answer;
        };
        return response;
    };
}"""


def test_a_graph_that_changes_and_changes_back_has_an_answer(editor: Editor):
    _, sampler = add_pair(editor)
    editor.page.wait_for_selector(".wanduet-plan")
    editor.settle()
    editor.page.evaluate(CHANGE_MEANWHILE, sampler)
    editor.set_widgets(sampler, {"denoise": 0.0})
    (text,) = wait_for_problems(editor, sampler, 1)
    assert text.startswith("Nothing would be sampled.")
    assert editor.call("widgetValue", sampler, "denoise") == 0


def test_a_run_says_it_in_a_toast_once(editor: Editor, results: Path | None):
    loader, sampler = add_pair(editor)
    cross(editor, loader, sampler)
    wait_for_problems(editor, sampler, 1)
    end = editor.call("add", "PreviewAny", 900, 60)
    editor.call("connectSlot", sampler, 0, end, 0)
    for slot in ("positive", "negative"):
        text = editor.call("add", "WanDuetTextEncode", 60, 400)
        editor.call("connect", text, 0, sampler, slot)
    size = editor.call("add", "WanDuetImageToVideo", 60, 600)
    editor.call("connect", size, 2, sampler, "latent_image")
    answer = editor.run()
    # Read as it comes: it goes again.
    shown = editor.page.wait_for_function(
        "(text) => wanduetTest.toasts(text).length && wanduetTest.toasts(text)", arg=CROSSED
    )
    (toast,) = shown.json_value()
    editor.settle()
    editor.screenshot(results, "toast")

    assert answer["type"] == "refused"
    (error,) = answer["detail"][str(sampler)]["errors"]
    assert error["extra_info"]["input_name"] == "model_high"
    assert toast.endswith("Swap the two links.")
    assert len(at_node(editor, sampler)) == 1
    (logged,) = editor.take_errors()  # the editor logs that a prompt was refused
    assert logged.startswith("PromptExecutionError")
    editor.page.keyboard.press("Escape")
