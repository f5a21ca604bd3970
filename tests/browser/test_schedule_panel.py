"""The schedule panel of WanDuetMoESampler: Python's numbers, live, in every way of running."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Route

from wan_model.sampling import (
    count_high_noise_steps,
    expert_split,
    make_sigmas,
    schedule_for_denoise,
    trim_steps,
)

from .editor import LONGEST_WAIT, Editor, Panel
from .hidden_inputs import hidden_inputs

pytestmark = pytest.mark.browser

WHOLE: dict[str, Any] = {
    "sampler": "unipc",
    "steps": 20,
    "shift": 5.0,
    "boundary": 0.9,
    "denoise": 1.0,
    "start_at_step": 0,
    "end_at_step": 10_000,
    "return_with_leftover_noise": "disable",
}
CHANGES: list[dict[str, Any]] = [
    {},
    {"sampler": "euler"},
    {"steps": 4},
    {"shift": 12.0},
    {"boundary": 0.6},
    {"denoise": 0.7},
    {"denoise": 0.0},
    {"start_at_step": 11},
    {"end_at_step": 11},
    {"end_at_step": 11, "return_with_leftover_noise": "enable"},
    {"steps": 12, "denoise": 0.6, "start_at_step": 2, "end_at_step": 9},
    {"start_at_step": 30},
]

T2V = ("toy_t2v_high_noise.safetensors", "toy_t2v_low_noise.safetensors")
I2V = ("toy_i2v_high_noise.safetensors", "toy_i2v_low_noise.safetensors")

PIXEL = 0.02
"""Tolerance of a sigma that was read back from the drawing."""


def add_pair(editor: Editor, files: tuple[str, str] = T2V) -> tuple[str, str]:
    """Adds an expert loader and a sampler, connected. Returns their ids."""
    loader = editor.call("add", "WanDuetExpertLoader", 60, 80)
    sampler = editor.call("add", "WanDuetMoESampler", 460, 60)
    editor.set_widgets(loader, {"high_noise_model": files[0], "low_noise_model": files[1]})
    editor.call("connect", loader, 0, sampler, "model_high")
    editor.call("connect", loader, 1, sampler, "model_low")
    editor.settle()
    return loader, sampler


def test_official_values_of_the_model(editor: Editor, results: Path | None):
    loader, sampler = add_pair(editor)
    panel = editor.panel(sampler)
    editor.screenshot(results, "t2v")

    assert panel.split == "High 26 | Low 14"
    assert panel.values == "shift 12, boundary 0.875"
    assert panel.labels == ["t 999–877, cfg 4", "t 865–235, cfg 3"]
    assert "T2V" in panel.note
    assert panel.boundary == pytest.approx(0.875, abs=PIXEL)
    sigmas = make_sigmas("unipc", 40, 12.0).tolist()
    drawn = [*panel.curves[0], *panel.curves[1][1:]]
    assert drawn == [pytest.approx(point, abs=PIXEL) for point in enumerate(sigmas)]

    editor.set_widgets(loader, {"high_noise_model": I2V[0]})
    editor.settle()
    assert editor.panel(sampler).split == "High 15 | Low 25"


def test_follows_every_widget(editor: Editor):
    _, sampler = add_pair(editor, I2V)
    for changes in CHANGES:
        run = {**WHOLE, **changes}
        editor.set_widgets(sampler, run)
        editor.settle()
        assert_shows(editor.panel(sampler), run)


def assert_shows(panel: Panel, run: dict[str, Any]) -> None:
    """Compares a panel with what the sampler would do."""
    full = schedule_for_denoise(
        lambda steps: make_sigmas(run["sampler"], steps, run["shift"]), run["steps"], run["denoise"]
    )
    leftover = run["return_with_leftover_noise"] == "enable"
    sigmas = trim_steps(full, run["start_at_step"], run["end_at_step"], not leftover)
    high = count_high_noise_steps(sigmas, run["boundary"])
    low = max(0, len(sigmas) - 1) - high
    assert panel.split == f"High {high} | Low {low}", run
    assert [len(curve) - 1 for curve in panel.curves] == [count for count in (high, low) if count]
    ends = [sigma for curve in panel.curves for _, sigma in curve][-1:]
    assert ends == [pytest.approx(sigma, abs=PIXEL) for sigma in sigmas.tolist()[-1:]]


def test_a_click_on_a_widget_is_enough(editor: Editor):
    _, sampler = add_pair(editor)
    editor.set_widgets(sampler, {"steps": 20})
    editor.settle()
    assert editor.panel(sampler).split == "High 13 | Low 7"

    editor.page.mouse.click(*editor.call("incrementButton", sampler, "steps"))
    editor.settle()

    assert editor.call("widgets", sampler)["steps"] == 21
    high = expert_split("unipc", 21, 12.0, 0.875)
    assert editor.panel(sampler).split == f"High {high} | Low {21 - high}"


def test_does_nothing_while_nobody_does_anything(editor: Editor):
    add_pair(editor)
    assert editor.call("ownFrames", 30) == 0

    editor.page.mouse.move(300, 700)
    editor.page.mouse.move(310, 700)
    assert editor.call("ownFrames", 30) == 0  # it has looked, once


@contextmanager
def unanswered(editor: Editor) -> Iterator[list[Route]]:
    """Holds back the answers to what the panel asks; those left are given at the end."""
    held: list[Route] = []
    editor.page.route("**/wanduet/schedule*", lambda route: held.append(route))
    try:
        yield held
    finally:
        for route in held:
            route.continue_()
        editor.page.unroute("**/wanduet/schedule*")


def test_asks_one_question_at_a_time_and_none_twice(editor: Editor):
    _, sampler = add_pair(editor)
    with unanswered(editor) as held:
        for steps in (30, 31, 32, 33):
            editor.set_widgets(sampler, {"steps": steps})
            editor.call("frames", 4)
        assert_asked(editor, held, 30)

        held.pop().continue_()
        assert_asked(editor, held, 33)
        assert editor.panel(sampler).split == "High 26 | Low 14"
        held.pop().continue_()
        editor.settle()
        assert editor.panel(sampler).split == split_of(33)

        editor.set_widgets(sampler, {"steps": 30})
        editor.call("frames", 4)
        assert editor.panel(sampler).split == split_of(30)
        assert not held


def assert_asked(editor: Editor, held: list[Route], steps: int) -> None:
    """Waits for a question, which a busy browser passes on late, and sees that it is the only one.

    Args:
        editor: the page.
        held: questions that have no answer yet.
        steps: that it is about.
    """
    for _ in range(LONGEST_WAIT // 20):
        if held:
            break
        editor.page.wait_for_timeout(20)
    editor.call("frames", 4)
    assert [f"steps={steps}" in route.request.url for route in held] == [True]


def split_of(steps: int) -> str:
    """Returns what is shown for so many steps of T2V."""
    high = expert_split("unipc", steps, 12.0, 0.875)
    return f"High {high} | Low {steps - high}"


def test_core_scheduler(editor: Editor):
    _, sampler = add_pair(editor)
    chosen = {"steps": 4, "shift": 5.0, "boundary": 0.9, "sampler": "euler", "scheduler": "beta"}
    editor.set_widgets(sampler, chosen)
    editor.settle()
    panel = editor.panel(sampler)

    assert panel.split == "High 2 | Low 2"
    assert panel.labels == ["t 1000–959, cfg 4", "t 833–518, cfg 3"]


def test_one_expert(editor: Editor, results: Path | None):
    loader = editor.call("add", "WanDuetModelLoader", 60, 80)
    sampler = editor.call("add", "WanDuetMoESampler", 460, 60)
    editor.settle()
    assert editor.panel(sampler).note == "Connect a model to see its official values."

    editor.set_widgets(loader, {"model_name": "toy_ti2v.safetensors"})
    editor.call("connect", loader, 0, sampler, "model_high")
    editor.settle()
    panel = editor.panel(sampler)
    editor.screenshot(results, "one-expert")

    assert panel.split == "50 steps"
    assert panel.values == "shift 5, one expert"
    assert panel.labels == ["t 999–92, cfg 5"]
    assert panel.boundary is None


def test_file_that_is_no_model_says_why(editor: Editor):
    loader, sampler = add_pair(editor)
    editor.set_widgets(loader, {"high_noise_model": "gone.safetensors"})
    editor.settle()

    assert "gone.safetensors" in editor.panel(sampler).note


def test_finds_the_loader_and_values_upstream(editor: Editor):
    loader, sampler = add_pair(editor, I2V)
    lora = editor.call("add", "LoraLoaderModelOnly", 60, 400)
    reroute = editor.call("add", "Reroute", 60, 560)
    steps = editor.call("add", "PrimitiveInt", 60, 640)
    editor.call("connect", loader, 0, lora, "model")
    editor.call("connectSlot", lora, 0, reroute, 0)
    editor.call("connectSlot", reroute, 0, sampler, 0)
    editor.set_widgets(steps, {"value": 19})
    editor.call("connect", steps, 0, sampler, "steps")
    editor.settle()
    high = expert_split("unipc", 19, 5.0, 0.9)
    assert editor.panel(sampler).split == f"High {high} | Low {19 - high}"

    editor.page.mouse.click(*editor.call("incrementButton", steps, "value"))
    editor.settle()
    assert editor.panel(sampler).split == "High 8 | Low 12"

    inner = editor.call("moveIntoSubgraph", [sampler], "WanDuetMoESampler")
    editor.settle()
    assert editor.panel(inner).split == "High 8 | Low 12"


def test_value_that_only_the_run_knows(editor: Editor):
    _, sampler = add_pair(editor)
    switch = editor.call("add", "WanDuetSigmas", 60, 400)
    editor.call("connect", switch, 1, sampler, "steps")
    editor.settle()
    panel = editor.panel(sampler)

    assert panel.split == "High 26 | Low 14"
    assert panel.note == "Known only when it runs: steps."


def test_is_no_part_of_the_saved_workflow(editor: Editor):
    _, sampler = add_pair(editor)
    editor.set_widgets(sampler, {"steps": 20, "return_with_leftover_noise": "enable"})
    editor.load(editor.serialize())
    saved = without_sizes(editor.serialize())
    node = next(node for node in saved["nodes"] if str(node["id"]) == str(sampler))

    names = [*editor.call("widgets", sampler)]
    assert node["widgets_values"][names.index("return_with_leftover_noise")] == "enable"
    assert len(node["widgets_values"]) == len(editor.call("widgets", sampler))
    for _ in range(3):
        editor.load(editor.serialize())
    assert without_sizes(editor.serialize()) == saved
    assert editor.panel(sampler).split == "High 13 | Low 7"


def without_sizes(workflow: dict[str, Any]) -> dict[str, Any]:
    """A node makes room for its panels, which come when the server has answered."""
    return {**workflow, "nodes": [{**node, "size": None} for node in workflow["nodes"]]}


def test_keeps_its_size_and_fits_the_node(editor: Editor):
    _, sampler = add_pair(editor)
    editor.page.wait_for_selector(".wanduet-plan")
    editor.settle()
    before = editor.call("box", sampler)
    editor.call("frames", 30)

    assert editor.call("box", sampler) == before
    assert before["height"] == pytest.approx(128, abs=1)
    assert before["width"] > 250

    editor.call("resize", sampler, 600, 900)
    editor.settle()
    after = editor.call("box", sampler)
    assert after["width"] > 500
    assert editor.panel(sampler).split == "High 26 | Low 14"


def test_hidden_inputs_leave_no_room_below_panels(editor: Editor, results: Path | None):
    if not editor.mode.nodes2:
        pytest.skip("Only Nodes 2.0 hides advanced inputs.")
    with hidden_inputs(editor):
        _, sampler = add_pair(editor)
        editor.page.wait_for_selector(".wanduet-plan")
        editor.settle()
        editor.screenshot(results, "hidden-inputs")
        height = editor.call("height", sampler)
        heights = editor.call("panelHeights", sampler)
        assert heights.keys() == {"wanduet_schedule", "wanduet_plan"}
        assert all(drawn == pytest.approx(wanted, abs=1) for drawn, wanted in heights.values())

        editor.set_widgets(sampler, {"denoise": 0.0})
        editor.page.wait_for_selector(".wanduet-problems")
        editor.settle()
        assert editor.call("height", sampler) > height
        editor.set_widgets(sampler, {"denoise": 1.0})
        editor.page.locator(".wanduet-problems").wait_for(state="detached")
        editor.settle()
        assert editor.call("height", sampler) == height
        assert editor.call("panelHeights", sampler) == heights

        editor.load(editor.serialize())
        editor.page.wait_for_selector(".wanduet-plan")
        editor.settle()
        editor.screenshot(results, "hidden-inputs-loaded")
        assert editor.call("height", sampler) == height
        assert editor.call("panelHeights", sampler) == heights


def test_wheel_and_middle_button_reach_the_canvas(editor: Editor):
    _, sampler = add_pair(editor)
    box = editor.call("box", sampler)
    before = editor.call("view")
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    editor.page.mouse.move(*middle)
    editor.page.mouse.wheel(0, -120)
    # The wheel turns some time after the call.
    editor.page.wait_for_function(
        "(scale) => wanduetTest.view().scale > scale", arg=before["scale"]
    )
    editor.settle()
    zoomed = editor.call("view")

    editor.page.mouse.down(button="middle")
    editor.page.mouse.move(middle[0] + 60, middle[1] + 40, steps=4)
    editor.page.mouse.up(button="middle")
    editor.settle()
    assert editor.call("view")["offset"] != pytest.approx(zoomed["offset"])


def test_pointer_reads_out_a_step(editor: Editor, results: Path | None):
    _, sampler = add_pair(editor)
    box = editor.call("box", sampler)
    plot_left, plot_width = box["x"] + 12, box["width"] - 24
    sigmas = make_sigmas("unipc", 40, 12.0).tolist()
    for step, expert in ((0, "high"), (25, "high"), (26, "low"), (39, "low")):
        x = plot_left + (step + 0.5) / 40 * plot_width
        editor.page.mouse.move(x, box["y"] + box["height"] / 2)
        editor.call("frames", 2)
        shown = f"sigma {sigmas[step]:.4f}, t {int(sigmas[step] * 1000)}, {expert}-noise expert"
        assert editor.panel(sampler).note == f"step {step + 1}: {shown}"
    editor.screenshot(results, "pointer")

    editor.page.mouse.move(5, 5)
    editor.call("frames", 2)
    assert "T2V" in editor.panel(sampler).note


def test_other_nodes_are_left_alone_and_nothing_stays_behind(editor: Editor):
    _, sampler = add_pair(editor)
    other = editor.call("add", "KSampler", 900, 60)
    assert "wanduet_schedule" not in editor.call("allWidgetNames", other)

    editor.set_widgets(sampler, {"scheduler": "simple"})
    editor.clear()
    asked: list[str] = []
    editor.page.on("request", lambda request: asked.append(request.url))
    editor.page.mouse.move(300, 700)
    editor.page.mouse.move(310, 700)
    assert editor.call("ownFrames", 30) == 0
    editor.page.wait_for_function("() => wanduetTest.panelCount() === 0")
    assert [url for url in asked if "/wanduet/" in url] == []


@pytest.mark.parametrize("palette", ["light", "dark"])
def test_themes(editor: Editor, results: Path | None, palette: str):
    """Makes screenshots of both themes; text keeps its contrast (WCAG AA for large text, 3:1)."""
    add_pair(editor)
    _, split = add_pair(editor, I2V)
    editor.call("move", split, 860, 60)
    editor.set_widgets(split, {"steps": 20, "start_at_step": 3, "end_at_step": 14})
    editor.call("setSetting", "Comfy.ColorPalette", palette)
    editor.settle()
    editor.screenshot(results, f"theme-{palette}")

    assert editor.call("contrast", split) >= 3
