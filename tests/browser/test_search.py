"""Whoever types what they look for finds our nodes and templates among the first five."""

import runpy
import sys
from types import ModuleType

import pytest
from playwright.sync_api import TimeoutError

from tests.comfy.server import REPOSITORY

from .editor import Editor

pytestmark = pytest.mark.browser

FIRST = 5
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

TEMPLATES = [
    *("wan 2.2 text to video", "wan 2.2 image to video", "wan 5b", "first and last frame"),
    *("tiny", "no download"),
]
"""Fewer words find core's templates first: it ranks its own by how often they are used."""


SHOWN = """([names, first]) => [...document.querySelectorAll("[data-testid^='template-workflow-']")]
  .slice(0, first).some((card) => names.includes(card.dataset.testid.slice(18)))"""


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


def test_templates_are_found(editor: Editor):
    if editor.mode.frontend != "newest" or editor.mode.nodes2:
        pytest.skip("the older search has not been read reliably yet; the renderer plays no part")
    names = [path.stem for path in (REPOSITORY / "workflows").glob("*.json")]
    page = editor.page
    page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    box = page.get_by_role("dialog").locator("input").first
    missed = []
    for phrase in TEMPLATES:
        box.fill(phrase)
        try:  # the dialog waits for the end of the word
            page.wait_for_function(SHOWN, arg=[names, FIRST], timeout=5000)
        except TimeoutError:
            missed.append(phrase)
    page.keyboard.press("Escape")
    assert not missed
