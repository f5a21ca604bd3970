"""A sampler some of whose inputs Nodes 2.0 hides, whatever the server under test says of them."""

from collections.abc import Iterator
from contextlib import contextmanager

from .editor import Editor

ADVANCED = (
    *("boundary", "start_at_step", "end_at_step", "add_noise"),
    *("return_with_leftover_noise", "start_steps", "cfg_start"),
)
"""Inputs of the sampler that Nodes 2.0 hides where the server says so, as ComfyUI 0.33 does."""


@contextmanager
def hidden_inputs(editor: Editor) -> Iterator[None]:
    """Has samplers that are made in the block hide them, those that are loaded included."""
    known = editor.call("setAdvanced", "WanDuetMoESampler", [*ADVANCED])
    try:
        yield
    finally:
        editor.call("setAdvanced", "WanDuetMoESampler", known)
