"""Which hooks of other nodes our forward pass does not honour."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from comfy.patcher_extension import WrappersMP

from .core_hooks import PATCHES
from .patched_blocks import BLOCK, BLOCKS

WRAPPERS = {kind for name, kind in vars(WrappersMP).items() if name.isupper()}
"""Kinds that ComfyUI's sampling or our forward pass calls."""

ROOT = "diffusion_model."
HONOURED = re.compile(
    r"forward|_forward|forward_orig|rope_encode|rope_embedder(\..+)?|attend"
    r"|(text_embedding|time_embedding|time_projection)(\..+)?"
    r"|blocks\.\d+(\.forward|\.modulation|\.(self_attn|cross_attn|ffn|norm[123])(\..+)?)?"
)
"""Attributes of our transformer that it calls as core does its own, replaced or not."""


def unknown_hooks(options: Mapping[str, Any], num_blocks: int) -> tuple[str, ...]:
    """Returns the names of hooks in transformer options that have no effect, each once.

    Args:
        options: transformer options of a forward pass.
        num_blocks: of the model.
    """
    return tuple(dict.fromkeys(_unknown(options, num_blocks)))


def unknown_object_patches(names: Iterable[str]) -> tuple[str, ...]:
    """Returns those names of object patches that our transformer does not use as core's does."""
    inside = (name.removeprefix(ROOT) for name in names if name.startswith(ROOT))
    return tuple(ROOT + name for name in inside if not HONOURED.fullmatch(name))


def _unknown(options: Mapping[str, Any], num_blocks: int) -> Iterator[str]:
    for name, functions in options.get("patches", {}).items():
        if functions and name not in PATCHES:
            yield name
    for place, replacements in options.get("patches_replace", {}).items():
        found = [key for key in replacements if place == BLOCKS and _is_block(key, num_blocks)]
        for key in replacements:
            # Skip-layer guidance names layers of both kinds that transformers have.
            if key not in found and not (found and key[0] == "single_block"):
                yield f"{place} {_shown(key)}"
    for kind, wrappers in options.get("wrappers", {}).items():
        if any(wrappers.values()) and kind not in WRAPPERS:
            yield f"wrapper {kind}"


def _is_block(key: Any, num_blocks: int) -> bool:
    return (
        isinstance(key, tuple)
        and key[:1] == (BLOCK,)
        and key[1:] in {(number,) for number in range(num_blocks)}
    )


def _shown(key: Any) -> str:
    return " ".join(map(str, key)) if isinstance(key, tuple) else str(key)
