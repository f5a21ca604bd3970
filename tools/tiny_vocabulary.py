"""The words that wan22-tiny has been trained with."""

import re
from collections.abc import Iterator

from .train_tiny.scenes import words

OTHER_WORDS = (
    "a an the of and both while that is on over in front with at video animation short clip "
    "background backdrop plain gradient blending striped stripes checkered"
)
"""Those that hold a caption together."""


def unknown_words(prompt: str) -> list[str]:
    """Returns the words of a prompt that no caption of the training has, in its order."""
    known = set(_known())
    return [word for word in dict.fromkeys(_split(prompt)) if word not in known]


def advice(prompt: str) -> str:
    """Returns what to tell a person whose prompt has unknown words; empty if it has none."""
    unknown = unknown_words(prompt)
    if not unknown:
        return ""
    lists = {
        "colours": words.COLOUR_WORDS,
        "shapes": words.SHAPE_WORDS,
        "directions": words.DIRECTION_WORDS,
        "other motions": words.OTHER_MOTION_WORDS,
        "backgrounds": words.BACKGROUND_WORDS,
    }
    lines = [f"  {name}: {', '.join(table)}" for name, table in lists.items()]
    quoted = ", ".join(f"'{word}'" for word in unknown)
    return "\n".join([f"wan22-tiny has never seen {quoted}. It knows:", *lines])


def _split(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())


def _known() -> Iterator[str]:
    for table in vars(words).values():
        phrases = table.values() if isinstance(table, dict) else [table]
        for group in phrases:
            for phrase in group if isinstance(group, tuple) else [group]:
                if isinstance(phrase, str):
                    yield from _inflected(phrase)
    for name in (*words.COLOUR_WORDS, *words.SHAPE_WORDS, *words.OTHER_MOTION_WORDS):
        yield from _split(name)
    yield from OTHER_WORDS.split()


def _inflected(phrase: str) -> Iterator[str]:
    for form in (phrase, words.third_person(phrase), words.gerund(phrase)):
        yield from _split(form)
