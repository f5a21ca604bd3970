"""Pages are true: links lead somewhere, snippets run, the table of cards is the planner's."""

import re
import runpy
from pathlib import Path

import pytest

from tools import card_table

from .source import REPOSITORY

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "models/*.md", "benchmarks/*.md")
    for path in REPOSITORY.glob(pattern)
)
MAX_README_WORDS = 1000
"""Beside code and the table of cards."""


def name_of(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def blocks(page: str, language: str) -> list[str]:
    text = (REPOSITORY / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Returns what GitHub calls the headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return {title.replace(" ", "-") for title in kept}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path):
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(target)
    assert not dead


@pytest.mark.parametrize("page", ["README.md", "docs/library.md"])
def test_snippets_give_what_they_say(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(REPOSITORY)
    (code,) = blocks(page, "python")
    script = tmp_path / "snippet.py"
    script.write_text(code, "utf-8")

    video = runpy.run_path(str(script))["video"]

    (shape,) = re.findall(r"vae\.decode\(.*# (\[1, 3, .*\])$", code, re.MULTILINE)
    assert str(list(video.shape)) == shape
    assert video.isfinite().all()


def test_the_table_of_cards_is_the_planners():
    text = (REPOSITORY / "README.md").read_text("utf-8")
    shown = text.partition(card_table.START)[2].partition(card_table.END)[0].strip()
    assert shown == card_table.table(), "run python -m tools.card_table --write"


UNWANTED = re.compile(
    r"A cat they|kept to exactly|no pair of experts|is of another VAE|Mind the VAE|also upright"
    r"|Got no such file|the room they ask for|(?:on|with) real weights"
    r"|\b(?:TI2V|T2V|I2V) (?:A14B|5B)\b|\bA14B-(?:T2V|I2V)\b|\bWan-2\.2\b"
)
"""What was rewritten, and names that are spelled otherwise: see the glossary in CONTRIBUTING.md."""


def test_what_users_read_is_plain_english():
    """Pages, and the strings of nodes and library; ids and names of files are no prose."""
    patterns = ("README.md", "CHANGELOG.md", "models/*.md", "docs/*.md", "js/docs/*.md")
    more = ("locales/en/*.json", "workflows/*.json", "nodes/**/*.py", "wan_model/**/*.py")
    files = [path for pattern in (*patterns, *more) for path in REPOSITORY.glob(pattern)]
    found = {
        name_of(path): words
        for path in files
        if (words := UNWANTED.findall(path.read_text("utf-8")))
    }
    assert not found
    assert len(files) > 200


def test_the_readme_stays_short():
    text = (REPOSITORY / "README.md").read_text("utf-8")
    text = re.sub(r"```.*?```|<!-- cards.*?/cards -->", "", text, flags=re.DOTALL)
    assert len(text.split()) < MAX_README_WORDS
