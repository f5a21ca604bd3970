"""One mistake in a workflow."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A sentence about one input of one node."""

    node_id: str
    input: str
    """The one to change."""
    message: str
    """What is wrong. Got X, need Y. Do Z."""
