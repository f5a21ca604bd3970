"""Commands that pages show are understood by the programs that they start."""

import argparse
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .source import REPOSITORY

PAGES = [
    path
    for pattern in ("*.md", "docs/*.md", "models/*.md", "benchmarks/*.md", "js/docs/**/*.md")
    for path in REPOSITORY.glob(pattern)
]
PYTHON = re.compile(r"^(?:\$ )?(?:\w+=\S* )*(?:python3?|torchrun) (?:--nproc-per-node \d+ )?")
OF_OTHERS = ("-m pytest", "-m pip", "-m venv", "-c ", "main.py")
"""What commands of other programs begin with."""
NAMES = ("-m render_farm", "-m wan_model.convert")
"""Programs that need arguments, as sentences call them."""
PLACEHOLDERS = {"KIND": "pace", "...": "0"}


class UnderstoodError(Exception):
    """Raised in the place of what a program does once its arguments are read."""


def shown(text: str) -> Iterator[str]:
    """Yields the commands of a page, those in blocks and those within sentences."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    blocks = [re.sub(r"\s*\\\n\s*", " ", block) for block in blocks]
    lines = [line for block in blocks for line in block.splitlines()]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    for line in lines:
        for part in re.sub(r"\s#\s.*", "", line).split(" | "):
            if start := PYTHON.match(part.strip()):
                command = part.strip()[start.end() :]
                if not command.startswith(OF_OTHERS):
                    yield command


COMMANDS = sorted(
    {command for page in PAGES for command in shown(page.read_text("utf-8"))} - {*NAMES}
)


@pytest.fixture
def only_reads(monkeypatch: pytest.MonkeyPatch):
    """Has programs end once they have understood their arguments."""
    read = argparse.ArgumentParser.parse_known_args

    def parse_args(parser: argparse.ArgumentParser, args: Any = None, into: Any = None) -> None:
        _, left = read(parser, args, into)
        if left:
            parser.error(f"unrecognized arguments: {left}")
        raise UnderstoodError

    def parse_known_args(*given: Any) -> None:
        read(*given)
        raise UnderstoodError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_known_args)
    monkeypatch.setattr(sys, "path", [str(REPOSITORY), *sys.path])
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.usefixtures("only_reads")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command: str, monkeypatch: pytest.MonkeyPatch):
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(command)]
    run, words = (runpy.run_module, words[1:]) if words[0] == "-m" else (runpy.run_path, words)
    monkeypatch.setattr(sys, "argv", words)
    sys.path.insert(0, str(Path(words[0]).parent))
    with pytest.raises(UnderstoodError):
        run(words[0], run_name="__main__")


def test_commands_are_found():
    assert len(COMMANDS) > 50


@pytest.mark.parametrize(
    ("line", "commands"),
    [
        ("python tools/lake.py", ["tools/lake.py"]),
        ("$ python3 tools/lake.py", ["tools/lake.py"]),
        ("A=1 python3 tools/lake.py \\\n    --size 8", ["tools/lake.py --size 8"]),
        ("python3 -m pip install ray", []),
        ("python -m venv .venv", []),
        ('python -c "print(1)"', []),
        ("python main.py --listen", []),
        ("pip install python", []),
    ],
)
def test_commands_are_those_of_our_programs(line: str, commands: list[str]):
    assert [*shown(f"```\n{line}\n```\n")] == commands
