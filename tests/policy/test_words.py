"""Every node has its words in English and Chinese, and a help page with an image in both."""

import re
from pathlib import Path
from typing import Any

import pytest

from . import contract, locales
from .source import REPOSITORY

PAGES = REPOSITORY / "js" / "docs"
NODES = contract.load()
CHINESE = re.compile(r"[\u4e00-\u9fff]")
SAME_IN_CHINESE = re.compile(r"^(VAE|CLIP|LoRA|Latent|Sigmas|shift|[\W\d]*)$")
"""Names that Chinese users know by their English word."""
MARKUP = set("{}@|")
"""Characters that mean something to the editor's translations."""
MAX_BYTES = 1_500_000
HEADINGS = {"": "## Example", "zh": "## 示例"}


def page_of(node_id: str, language: str) -> Path:
    return PAGES / node_id / "zh.md" if language else PAGES / f"{node_id}.md"


def inputs_of(node: dict[str, Any]) -> list[str]:
    return [found["name"] for group in ("required", "optional") for found in node[group]]


@pytest.mark.parametrize("language", HEADINGS, ids=["en", "zh"])
def test_every_node_has_a_help_page(language: str):
    """A new node needs its page, `js/docs/ID.md` and `js/docs/ID/zh.md`: see CONTRIBUTING.md."""
    wrong = []
    for node_id, node in NODES.items():
        page = page_of(node_id, language)
        if not page.is_file():
            wrong.append(f"{page.relative_to(REPOSITORY)} is missing")
            continue
        text = page.read_text("utf-8")
        images = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
        # The help panel reads images from js/docs, whatever the page's language.
        wrong += [f"{page}: no image {image}" for image in images if not (PAGES / image).is_file()]
        wrong += [] if images else [f"{page}: no image"]
        wrong += [] if HEADINGS[language] in text else [f"{page}: no example"]
        untold = [name for name in inputs_of(node) if f"`{name}`" not in text]
        wrong += [f"{page}: nothing on {', '.join(untold)}"] if untold else []
        if bool(CHINESE.search(text)) != bool(language):
            wrong.append(f"{page}: not in its language")
    assert not wrong, "\n".join(wrong)


def test_no_help_page_without_a_node():
    named = {path.stem for path in PAGES.glob("*.md")} | {
        path.parent.name for path in PAGES.glob("*/zh.md")
    }
    assert named <= NODES.keys()


def test_help_images_stay_small():
    assert sum(file.stat().st_size for file in (PAGES / "images").iterdir()) < MAX_BYTES


@pytest.mark.parametrize("name", ["nodeDefs", "main"])
def test_chinese_words_are_complete(name: str):
    english = locales.leaves(locales.load("en", name))
    chinese = locales.leaves(locales.load("zh", name))
    assert chinese.keys() == english.keys()
    left = [
        place
        for place, text in chinese.items()
        if not CHINESE.search(text) and not SAME_IN_CHINESE.match(text)
    ]
    assert not left, "not translated: " + ", ".join(left)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_words_are_plain_text(language: str):
    words = locales.leaves(locales.load(language))
    wrong = [place for place, text in words.items() if MARKUP & set(text)]
    wrong += [place for place, text in words.items() if len(text) > 200 or not text]
    assert not wrong
    assert {place.partition(".")[0] for place in words} == set(NODES)


def test_numbers_of_chinese_tooltips_are_those_of_the_english_ones():
    """A setting that changes in one language is to be changed in the other."""
    english, chinese = (locales.leaves(locales.load(language)) for language in ("en", "zh"))
    wrong = [
        f"{place}: {sorted(numbers(text))} {sorted(numbers(chinese[place]))}"
        for place, text in english.items()
        if place in chinese and numbers(text) - numbers(chinese[place]) - {"380", "10"}
        if "tooltip" in place
    ]
    assert not wrong, "\n".join(wrong)


def numbers(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", text))
