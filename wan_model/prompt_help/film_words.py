"""The vocabulary of film that Wan 2.2 was trained with, as menus: `film_words.json`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from .instructions import Language

OPEN = "open"
"""The choice that says nothing."""


@dataclass(frozen=True)
class Term:
    """One choice of a menu."""

    name: str
    en: str
    """What the prompt says."""
    zh: str
    """The same in Chinese."""
    meaning: str
    """One line for people."""


@dataclass(frozen=True)
class Menu:
    """One question about the look of a video."""

    label: str
    tooltip: str
    place: Literal["front", "back"]
    """Of its words: before the prompt, or a sentence behind it."""
    terms: Mapping[str, Term]


@cache
def menus() -> Mapping[str, Menu]:
    """Returns the menus in their order."""
    text = Path(__file__).with_name("film_words.json").read_text("utf-8")
    return {
        key: Menu(
            menu["label"],
            menu["tooltip"],
            menu["place"],
            {choice["name"]: Term(**choice) for choice in menu["choices"]},
        )
        for key, menu in json.loads(text).items()
    }


def with_cinematic_words(prompt: str, choices: Mapping[str, str], language: Language) -> str:
    """Returns a prompt with what was chosen: looks before it, the camera's movement behind it.

    Args:
        prompt: as the user wrote it; it is not changed.
        choices: a term's name, or `OPEN`, by its menu.
        language: of the words that are added.
    """
    words: dict[str, list[str]] = {"front": [], "back": []}
    for key, menu in menus().items():
        term = menu.terms.get(choices.get(key, OPEN))
        if term is not None:
            words[menu.place].append(term.en if language == "English" else term.zh)
    comma, stop, space = (", ", ". ", " ") if language == "English" else ("，", "。", "")
    front = comma.join(words["front"])
    front = front[:1].upper() + front[1:] + stop if front else ""
    return (front + space.join([prompt.strip(), *words["back"]])).strip()


def meanings(choices: Mapping[str, str]) -> list[str]:
    """Returns a line for each choice: what it is and what it does."""
    return [
        f"{menu.label}: {term.name}. {term.meaning}"
        for key, menu in menus().items()
        if (term := menu.terms.get(choices.get(key, OPEN))) is not None
    ]
