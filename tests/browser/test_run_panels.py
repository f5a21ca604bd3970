"""What nodes show of a run: its video and progress meanwhile, a report afterwards, a comparison."""

import json
from pathlib import Path
from uuid import uuid4

import pytest

from tests.comfy.client import NOTHING
from tests.comfy.server import REPOSITORY

from .editor import Editor, saved
from .test_schedule_panel import T2V, add_pair

pytestmark = pytest.mark.browser

PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///ywAAAAAAQABAAACAUwAOw=="


def add_run(editor: Editor, steps: int) -> str:
    """Adds text to video with toys, all of which will run. Returns the sampler's id."""
    # Of the last prompt, which another way of running the editor may have queued, the server has
    # the results, and nodes that it need not run again say nothing.
    editor.server.run(NOTHING)
    _, sampler = add_pair(editor, T2V)
    clip = editor.call("add", "WanDuetTextEncoderLoader", 60, 320)
    text = editor.call("add", "WanDuetTextEncode", 60, 440)
    vae = editor.call("add", "WanDuetVAELoader", 60, 760)
    size = editor.call("add", "WanDuetImageToVideo", 900, 60)
    end = editor.call("add", "PreviewAny", 900, 500)
    editor.set_widgets(clip, {"text_encoder_name": "toy_umt5.safetensors"})
    editor.set_widgets(vae, {"vae_name": "toy_wan_2.1_vae.safetensors"})
    editor.set_widgets(size, {"width": 64, "height": 48, "length": 9})
    editor.set_widgets(sampler, {"steps": steps, "seed": steps})
    editor.call("connect", clip, 0, text, "clip")
    editor.call("connect", vae, 0, size, "vae")
    for slot, name in enumerate(("positive", "negative")):
        editor.call("connect", text, slot, size, name)
        editor.call("connect", size, slot, sampler, name)
    editor.call("connect", size, 2, sampler, "latent_image")
    editor.call("connectSlot", sampler, 0, end, 0)
    editor.settle()
    return sampler


def test_a_run_moves_counts_and_reports(editor: Editor, results: Path | None):
    sampler = add_run(editor, 20)
    extend = editor.call("add", "WanDuetPromptExtend", 1300, 60)
    idea = "a boat"
    editor.set_widgets(extend, {"prompt": idea, "endpoint": ""})
    editor.call("connectSlot", extend, 0, editor.call("add", "PreviewAny", 1300, 800), 0)
    editor.page.wait_for_selector(".wanduet-plan:has-text('Predicted time')")
    editor.call("recordPanels", sampler)
    answer = editor.run()
    assert answer["type"] == "execution_success", answer
    editor.page.wait_for_function("(id) => wanduetTest.report(id)", arg=sampler)
    editor.settle()
    editor.screenshot(results, "report")

    seen = editor.call("recorded")
    assert any(note.startswith("step ") and " of 20" in note for note in seen["notes"])
    assert seen["images"], "no preview was shown"
    assert all(image.startswith("data:image/webp") for image in seen["images"])
    assert editor.call("previewCount") == 0, "a preview stayed"
    report = editor.call("report", sampler)
    assert "20 of 20 steps in " in report
    assert "High-noise expert: " in report
    assert "GiB RAM" in report
    assert "\n" in report
    assert "step " not in editor.panel(sampler).note
    # The newest editor itself keeps no text of a node beyond the run.
    texts = editor.page.locator(".wanduet-said").all_text_contents()
    assert sorted(text.split()[0] for text in texts) == ["64", "T2V", "Wan", "text"], texts
    editor.page.wait_for_selector(".wanduet-plan:has-text(' s to ')")
    for panel in ("schedule", "plan", "report"):
        assert editor.accessibility_faults(f".wanduet-{panel}") == []

    editor.call("press", extend, "Edit the result")
    assert editor.call("widgetValue", extend, "edited") == idea
    assert idea in editor.page.inner_text(".wanduet-prompt")


def test_the_node_around_a_sampler_shows_its_video_and_saves_nothing_of_it(
    editor: Editor, results: Path | None
):
    name = "Wan 2.2 Tiny Text to Video (No Download).json"
    editor.load(json.loads((REPOSITORY / "workflows" / name).read_text(encoding="utf-8")))
    saved = editor.serialize()["nodes"]
    (sampler,) = editor.call("innerIds", "WanDuetMoESampler")
    image = {"image": PIXEL, "width": 8, "height": 6}
    editor.call("receive", "wanduet.preview", {"node": sampler, **image})
    editor.page.wait_for_function("() => wanduetTest.drawnPreviews() === 1")
    editor.screenshot(results, "preview-outside")
    assert editor.serialize()["nodes"] == saved
    editor.call("receive", "wanduet.preview", {"node": sampler, "done": True})
    editor.settle()
    assert editor.call("previewCount") == 0
    assert editor.serialize()["nodes"] == saved


def test_a_run_shows_nothing_in_another_workflow(editor: Editor):
    """Ids of nodes are those of other nodes there. Its report waits until it is opened again."""
    if editor.mode.nodes2:
        pytest.skip("the renderer plays no part")
    sampler = add_run(editor, 30)
    # Only a saved workflow has an id in frontend 1.49.
    mine = {**saved(editor.serialize()), "id": str(uuid4())}
    editor.load(mine)
    editor.call("runAndOpen", {**mine, "id": str(uuid4())})
    editor.settle()
    assert editor.call("report", sampler) == ""
    assert "step " not in editor.panel(sampler).note
    assert editor.page.locator(".wanduet-said").count() == 0
    editor.load(mine)
    editor.page.wait_for_function("(id) => wanduetTest.report(id)", arg=sampler)
    assert "30 of 30 steps" in editor.call("report", sampler)


def test_panels_follow_the_graph_and_leave_no_trace_in_it(editor: Editor, results: Path | None):
    """In Nodes 2.0 a widget made anew under its name keeps the element of the one before."""
    sampler = add_run(editor, 20)
    plan = editor.page.locator(".wanduet-plan")
    plan.filter(has_text="36 tokens").wait_for()
    untouched = editor.serialize()
    editor.page.evaluate("(id) => window.hooks = wanduetTest.hooks(id)", sampler)
    [size] = [n["id"] for n in untouched["nodes"] if n["type"] == "WanDuetImageToVideo"]
    editor.set_widgets(size, {"length": 13})
    plan.filter(has_text="48 tokens").wait_for()
    editor.set_widgets(sampler, {"start_at_step": 30})
    editor.page.locator(".wanduet-problems").first.wait_for()
    editor.settle()
    editor.screenshot(results, "plan-and-problem")
    assert editor.accessibility_faults(".wanduet-problems") == []
    shown = editor.serialize()
    editor.set_widgets(sampler, {"start_at_step": 0})
    editor.page.locator(".wanduet-problems").first.wait_for(state="detached")
    editor.settle()
    heights = [
        {node["id"]: node["size"][1] for node in workflow["nodes"]}
        for workflow in (shown, editor.serialize())
    ]
    assert heights[0] == heights[1]
    same = "(id) => wanduetTest.hooks(id).every((hook, i) => hook === window.hooks[i])"
    assert editor.page.evaluate(same, sampler), "panels that went left their hooks at the node"

    editor.clear()
    plan.wait_for(state="detached")
    editor.load(saved(untouched))
    plan.filter(has_text="36 tokens").wait_for()


def test_sockets_of_both_experts_lie_side_by_side(editor: Editor, results: Path | None):
    _, sampler = add_pair(editor)
    editor.settle()
    editor.screenshot(results, "sampler")
    names = editor.call("inputNames", sampler)
    assert names[:2] == ["model_high", "model_low"]

    prompt, workflow = editor.api_prompt(), editor.serialize()
    editor.clear()
    editor.load(saved(workflow))
    assert editor.api_prompt() == prompt
    # As it was saved before the sockets were moved: model_low came last of the sockets.
    old = saved(workflow)
    node = next(one for one in old["nodes"] if one["type"] == "WanDuetMoESampler")
    low = node["inputs"].pop(1)
    node["inputs"].insert(4, low)
    for link in old["links"]:
        if link[3] == node["id"]:
            link[4] = next(i for i, one in enumerate(node["inputs"]) if one["link"] == link[0])
    editor.clear()
    editor.load(old)
    assert editor.api_prompt() == prompt
    assert editor.call("inputNames", sampler)[:2] == ["model_high", "model_low"]


def test_automatic_values_are_drawn(editor: Editor):
    _, sampler = add_pair(editor)
    assert editor.call("drawn", sampler, "cfg_high") == "auto (4)"
    assert editor.call("drawn", sampler, "steps") == "auto (40)"
    editor.set_widgets(sampler, {"cfg_high": 1.5})
    editor.settle()
    assert "auto" not in editor.call("drawn", sampler, "cfg_high")
    assert editor.call("widgets", sampler)["steps"] == 0


def test_two_videos_are_compared(editor: Editor, results: Path | None):
    node = editor.call("add", "WanDuetCompare", 500, 60)
    for slot, (name, colour) in enumerate((("video_a", 0xFF0000), ("video_b", 0x00FF00))):
        image = editor.call("add", "EmptyImage", 60, 60 + 260 * slot)
        values = {"width": 64, "height": 32, "batch_size": 3 + slot, "color": colour}
        editor.set_widgets(image, values)
        editor.call("connect", image, 0, node, name)
    answer = editor.run()
    assert answer["type"] == "execution_success", answer
    canvas = editor.page.wait_for_selector(".wanduet-compare canvas")
    assert canvas is not None
    editor.page.wait_for_function("() => wanduetTest.comparePixels()[0][0] > 200")
    editor.settle()
    editor.screenshot(results, "compare")
    assert editor.accessibility_faults(".wanduet-compare") == []
    left, right = editor.call("comparePixels")
    assert left[0] > 200 > 60 > left[1]
    assert right[1] > 200 > 60 > right[0]

    frame = editor.page.locator(".wanduet-compare-frame")
    canvas.focus()
    editor.page.keyboard.press("ArrowRight")
    assert frame.text_content() == "2 / 4"
    editor.page.keyboard.press("End")
    assert frame.text_content() == "4 / 4"
    editor.page.keyboard.press("d")
    editor.page.wait_for_function("() => wanduetTest.comparePixels().flat().every((v) => v >= 0)")
    editor.page.wait_for_function("() => wanduetTest.comparePixels()[0][1] > 200")
    pressed = editor.page.locator(".wanduet-compare button[aria-pressed=true]")
    assert pressed.count() == 1
    editor.page.keyboard.press(" ")
    editor.page.wait_for_function(
        "() => document.querySelector('.wanduet-compare-frame').textContent !== '4 / 4'"
    )
    editor.clear()  # while it plays
    editor.call("frames", 30)
