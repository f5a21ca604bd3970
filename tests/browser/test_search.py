"""Whoever types what they look for finds our nodes and templates among the first five."""

import json
import runpy
import sys
from types import ModuleType

import pytest
from playwright.sync_api import Route, TimeoutError

from tests.comfy.server import REPOSITORY

from .editor import Editor

pytestmark = pytest.mark.browser

FIRST = 5
WHOLE = "Wan 2.2 5B"
"""The one node that makes a video of text or of an image: what somebody new is to find first.

Both frontends put the shortest of the names first that begin with what is typed, in any language.
"""
BY_NAME = [
    *(
        "wan 2.2",
        "Wan2.2",
        "wan22",
        "wan sampler",
        "wan loader",
        "wan lora",
        "wan vae",
        "wan prompt",
    ),
    *("wan 2.2 image", "wan 2.2 14b", "wan text to video", "wan first last frame", "video size"),
    *("torch compile", "block swap", "step cache", "lora pair", "wan guider", "wan sigmas"),
]
"""Found by names alone, which is all that older frontends and servers know."""

BY_ALIAS = [
    *("t2v", "i2v", "moe", "high noise", "load diffusion model", "lightning", "4 steps", "gguf"),
    *("blockswap", "low vram", "teacache", "magcache", "sage attention"),
]
"""Found in what nodes say of themselves besides, in ComfyUI 0.33."""

TEMPLATES = {
    "newest": [
        *("wan 2.2 text to video", "wan 2.2 image to video", "wan 5b", "first and last frame"),
        *(
            "tiny",
            "no download",
            "long video",
            "seamless loop",
            "timed prompts",
            "inpaint video 14b",
        ),
    ],
    "own": ["no download"],
}
"""Phrases by frontend.

A bare "wan 2.2" finds ComfyUI's own dozen first, and no pack can change it. Of what matches, 1.58
shows first what is opened most, and 1.32 what is newest; templates of packs have neither a count
nor a date. 1.32 takes similar words for a match as well, so nearly every phrase finds many.
"""


CARDS = """(first) => [...document.querySelectorAll("[data-testid^='template-workflow-']")]
  .slice(0, first).map((card) => card.dataset.testid.slice(18))"""
SHOWN = f"([names, first]) => ({CARDS})(first).some((name) => names.includes(name))"


def ours(name: str) -> bool:
    return name.startswith("Wan 2.2 ")


@pytest.fixture(scope="module")
def aliases() -> dict[str, list[str]]:
    """What ComfyUI 0.33 sends: the server of the tests is older."""
    latest = ModuleType("comfy_api.latest")
    vars(latest)["io"] = None  # only asked what a schema takes
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "comfy_api", ModuleType("comfy_api"))
        patch.setitem(sys.modules, "comfy_api.latest", latest)
        words = runpy.run_path(str(REPOSITORY / "nodes" / "search_words.py"))
    return {node: [*words["WAN"], *more] for node, more in words["WORDS"].items()}


def test_nodes_are_found(editor: Editor, aliases: dict[str, list[str]]):
    knows_aliases = editor.mode.frontend == "newest"
    phrases = BY_NAME + (BY_ALIAS if knows_aliases else [])
    found = editor.call("searchNodes", phrases, aliases if knows_aliases else {}, FIRST)

    missed = {phrase: names for phrase, names in found.items() if not any(map(ours, names))}
    assert not missed
    assert len(BY_NAME + BY_ALIAS) >= 30
    assert found["wan 2.2"][0] == WHOLE


def test_no_name_in_chinese_is_found_before_the_whole_model():
    words = (REPOSITORY / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8")
    names = [node["display_name"] for node in json.loads(words).values()]
    assert min(map(len, names)) > len(WHOLE)


def counted(route: Route) -> None:
    """ComfyUI's own list, as it is with ComfyUI 0.33: with how often each template is opened."""
    groups = route.fetch().json()
    for template in (one for group in groups for one in group["templates"]):
        template["usage"] = 100
    route.fulfill(json=groups)


def test_templates_are_found(editor: Editor):
    if editor.mode.nodes2:
        pytest.skip("the renderer plays no part")
    names = [path.stem for path in (REPOSITORY / "workflows").glob("*.json")]
    page = editor.page
    page.route("**/templates/index.json*", counted)
    page.evaluate("() => void app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.wait_for_selector("[data-testid^='template-workflow-']")
    box = page.get_by_role("dialog").locator("input").first
    missed: dict[str, list[str]] = {}
    for phrase in TEMPLATES[editor.mode.frontend]:
        box.fill(phrase)
        try:  # the dialog waits for the end of the word
            page.wait_for_function(SHOWN, arg=[names, FIRST], timeout=60_000, polling=200)
        except TimeoutError:
            missed[phrase] = page.evaluate(CARDS, FIRST)
    page.keyboard.press("Escape")
    page.unroute("**/templates/index.json*", counted)
    assert not missed
