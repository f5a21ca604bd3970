"""Numbers with which a run does nothing, or something other than they say."""

from collections.abc import Iterator

from ..run_plan import settings_of
from .graph import Graph
from .known_files import Describe, find_model
from .problem import Problem

AUTOMATIC = ("steps", "cfg_high", "cfg_low", "shift", "boundary")
"""0 and -1 mean the official value."""
WHOLE_RUN = 10000
"""The last step of any run."""


def number_problems(graph: Graph, describe: Describe, node_id: str) -> Iterator[Problem]:
    """Looks at the numbers of a sampler, a guider or sigmas."""
    for name in AUTOMATIC:
        value = graph.number(node_id, name)
        if value is not None and value < 0 and value != -1:
            yield Problem(
                node_id,
                name,
                f"{name} cannot be negative. Got {value:g}, need a number above 0, or 0 for the "
                "official one. Use 0 if you are not sure.",
            )
    if graph.number(node_id, "denoise") == 0:
        yield Problem(
            node_id,
            "denoise",
            "Nothing would be sampled. Got a denoise of 0, need more, up to 1. Use 1 for a new "
            "video.",
        )
    yield from _step_range(graph, describe, node_id)


def _step_range(graph: Graph, describe: Describe, node_id: str) -> Iterator[Problem]:
    start = graph.number(node_id, "start_at_step")
    end = graph.number(node_id, "end_at_step")
    if start is None or end is None or min(start, end) < 0:
        return
    if start > end:
        yield Problem(
            node_id,
            "end_at_step" if end == 0 else "start_at_step",
            f"No step is left to run. Got steps from {start:g} to {end:g}, need a start before the "
            f"end. Use 0 and {WHOLE_RUN} for the whole run.",
        )
        return
    steps = graph.number(node_id, "steps")
    if steps is not None and steps <= 0:
        model = find_model(graph, describe, node_id, "model_high")
        steps = None if model is None else settings_of(graph, node_id, model, describe)[0].steps
    # A start at the end leaves the latent as it is: where a switch is swept from end to end.
    if steps is not None and start > steps:
        yield Problem(
            node_id,
            "start_at_step",
            f"The run ends before its first step. Got a start at step {start:g} of {steps:g}, need "
            f"at most {steps:g}. Use 0 for the whole run.",
        )
