"""The hooks of core's Wan model that reach into its blocks: how they are named and found."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

ATTENTION = "optimized_attention_override"
"""Transformer option: called in place of every attention function."""
AFTER_SELF_ATTENTION, AFTER_CROSS_ATTENTION = "attn1_patch", "attn2_patch"
AFTER_BLOCK = "double_block"
PATCHES = (AFTER_SELF_ATTENTION, AFTER_CROSS_ATTENTION, AFTER_BLOCK)
"""Lists in the transformer option "patches"."""


def patches(options: Mapping[str, Any], name: str) -> list[Callable[..., Any]]:
    """Returns the functions of one kind of patch."""
    return options.get("patches", {}).get(name, [])


def has_patched_parts(block: nn.Module) -> bool:
    """Whether an object patch has replaced the `forward` of a part of a block, or of it."""
    return any(is_patched(part) for part in block.modules())


def is_patched(module: nn.Module) -> bool:
    """Whether an object patch has replaced `module.forward`.

    ComfyUI puts the method back as an attribute of the module, so one alone says nothing.
    """
    forward = vars(module).get("forward")
    if forward is None:
        return False
    bound_to, function = (getattr(forward, name, None) for name in ("__self__", "__func__"))
    return bound_to is not module or function is not type(module).forward
