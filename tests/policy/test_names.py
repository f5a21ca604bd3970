"""Names on pages and in the editor's words exist: nodes, templates, variables, tests, scripts."""

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from .source import REPOSITORY

PAGES = [
    path
    for pattern in ("*.md", "docs/*.md", "models/*.md", "benchmarks/*.md", "js/docs/**/*.md")
    for path in REPOSITORY.glob(pattern)
    if path.name != "CHANGELOG.md"  # which tells earlier names, too
]
CALLED = re.compile(r"[*'](Wan 2\.2 [^*'\n]+)[*']")
FOLDERS = ("nodes", "wan_model", "render_farm", "tests", "benchmarks", "tools", "js")


def texts() -> Iterator[tuple[Path, str]]:
    """Yields pages and the words of the editor, with spaces for ends of lines."""
    for path in (
        *PAGES,
        *REPOSITORY.glob("locales/*/*.json"),
        *REPOSITORY.glob("workflows/*.json"),
    ):
        yield path.relative_to(REPOSITORY), " ".join(path.read_text("utf-8").split())


def known_names() -> set[str]:
    """Returns names of nodes in all languages, also without what follows "(" or "&"."""
    found = {path.stem for folder in ("workflows", "subgraphs") for path in folder_files(folder)}
    for path in REPOSITORY.glob("locales/*"):
        nodes = json.loads((path / "nodeDefs.json").read_text("utf-8")).values()
        found |= {node["display_name"] for node in nodes}
    return found | {re.split(r" [(&]", name)[0] for name in found}


def folder_files(folder: str) -> Iterator[Path]:
    return (REPOSITORY / folder).glob("*.json")


def test_nodes_and_templates_are_called_by_their_names():
    known = known_names()
    wrong = [
        f"{path}: {name}"
        for path, text in texts()
        for name in CALLED.findall(text)
        if not any(fnmatch(each, name.replace("...", "*")) for each in known)
    ]
    assert not wrong, "\n".join(wrong)


def code() -> str:
    files = [path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*")]
    files = [path for path in files if path.suffix in (".py", ".js") and path != Path(__file__)]
    return "\n".join(path.read_text("utf-8") for path in files)


@pytest.mark.parametrize("names", [r"\b(WANDUET_[A-Z_]+[A-Z])\b", r"\b(WanDuet[A-Z]\w+)\b"])
def test_variables_and_ids_are_those_of_the_code(names: str):
    known = set(re.findall(r"\w+", code()))
    found = {(path, name) for path, text in texts() for name in re.findall(names, text)}
    assert found
    assert not [f"{path}: {name}" for path, name in found if name not in known]


def test_files_that_pages_name_exist():
    """Tests, scripts and modules, by their paths or the names of tests."""
    named = re.compile(r"`((?:[\w.]+/)*(?:test_\w+|[\w/]+/\w+)(?:\*|\.py)?)`")
    tops = {path.name for path in REPOSITORY.iterdir() if path.is_dir()} - {"models", "user"}
    wrong, known = [], code()
    for path, text in texts():
        for name in named.findall(text):
            inside = name.split("/")[0] in tops
            if not (inside or name.startswith("test_")) or f"def {name}(" in known:
                continue
            pattern = name if inside else f"tests/**/{name}"
            if not any(REPOSITORY.glob(pattern)) and not any(REPOSITORY.glob(f"{pattern}.py")):
                wrong.append(f"{path}: {name}")
    assert not wrong, "\n".join(wrong)
