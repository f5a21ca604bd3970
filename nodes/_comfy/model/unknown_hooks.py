"""Which hooks of other nodes our forward pass does not honour."""

from collections.abc import Iterator, Mapping
from typing import Any

from .patched_blocks import BLOCK, BLOCKS

UNKNOWN_OPTIONS = ("optimized_attention_override", "rope_options")
"""Transformer options that core's Wan model honours and ours does not."""


def unknown_hooks(options: Mapping[str, Any], num_blocks: int) -> tuple[str, ...]:
    """Returns the names of hooks in transformer options that have no effect, each once.

    Args:
        options: transformer options of a forward pass.
        num_blocks: of the model.
    """
    return tuple(dict.fromkeys(_unknown(options, num_blocks)))


def _unknown(options: Mapping[str, Any], num_blocks: int) -> Iterator[str]:
    yield from (name for name in UNKNOWN_OPTIONS if options.get(name))
    yield from (name for name, functions in options.get("patches", {}).items() if functions)
    for place, replacements in options.get("patches_replace", {}).items():
        for key in replacements:
            if place != BLOCKS or not _is_block(key, num_blocks):
                yield f"{place} {_shown(key)}"


def _is_block(key: Any, num_blocks: int) -> bool:
    return (
        isinstance(key, tuple)
        and key[:1] == (BLOCK,)
        and key[1:] in {(number,) for number in range(num_blocks)}
    )


def _shown(key: Any) -> str:
    return " ".join(map(str, key)) if isinstance(key, tuple) else str(key)
