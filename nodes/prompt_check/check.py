"""Looks for every mistake that widgets, links and file headers show."""

from collections.abc import Iterator
from functools import cache

from .graph import Graph
from .known_files import Describe, describe_file
from .number_rules import number_problems
from .pair_rules import loader_problems, pair_problems, start_problems
from .problem import Problem
from .type_rules import Kinds, type_problems
from .video_rules import decode_problems, image_problems, size_problems

OURS = "WanDuet"
SAMPLER, GUIDER, SIGMAS = "WanDuetMoESampler", "WanDuetMoEGuider", "WanDuetSigmas"


def find_problems(
    nodes: dict[str, object],
    kinds: Kinds,
    among: set[str] | None = None,
) -> list[Problem]:
    """Returns the mistakes of a workflow, at most one for each input.

    Values of other types are the only ones, since all else looks at what the values say.

    Args:
        nodes: API format.
        kinds: what classes take and give.
        among: nodes that will run; None for all.
    """
    graph = Graph(nodes)
    found: dict[tuple[str, str], Problem] = {}
    mistyped = [
        problem
        for problem in type_problems(graph, cache(kinds), OURS)
        if among is None or problem.node_id in among
    ]
    for problem in mistyped or _all_problems(graph, cache(describe_file)):
        if among is None or problem.node_id in among:
            found.setdefault((problem.node_id, problem.input), problem)
    return list(found.values())


def _all_problems(graph: Graph, describe: Describe) -> Iterator[Problem]:
    wrong: set[str] = set()
    for node_id in graph.of_kind("WanDuetExpertLoader"):
        for problem in loader_problems(graph, describe, node_id):
            wrong.add(node_id)
            yield problem
    for kind in (SAMPLER, GUIDER):
        for node_id in graph.of_kind(kind):
            if wrong and wrong & graph.upstream([node_id]):
                continue  # what follows from a wrong file is no mistake of its own
            yield from pair_problems(graph, describe, node_id)
            yield from start_problems(graph, describe, node_id)
            yield from image_problems(graph, describe, node_id)
    for kind in (SAMPLER, GUIDER, SIGMAS):
        for node_id in graph.of_kind(kind):
            yield from number_problems(graph, describe, node_id)
    for node_id in graph.of_kind("WanDuetImageToVideo"):
        yield from size_problems(graph, describe, node_id)
    for kind, latent in (("WanDuetVAEDecode", "samples"), ("WanDuetJoinClips", "clip_1")):
        for node_id in graph.of_kind(kind):
            yield from decode_problems(graph, describe, node_id, latent)
