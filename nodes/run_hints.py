"""What a workflow says that a run will not do as meant, though it can be run: told, not refused."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from ..wan_model.loading import guess_pair, says_noise
from ..wan_model.presets import Settings
from . import few_steps
from ._comfy.host import runtime
from ._comfy.model.placement import has_engine_by_default
from .prompt_check.graph import MAX_CHAIN, Graph
from .prompt_check.known_files import describe_file, find_model

MODELS = ("model_high", "model_low")
NEGATIVES = {"WanDuetTextEncode": "negative", "WanDuetPromptSchedule": "negative"}
NEGATIVES |= {"CLIPTextEncode": "text"}
"""Nodes that encode a negative prompt, and their input for it. Ours take the official one if it is
empty."""
SINGLE = "WanDuetModelLoader"
FOR_OTHERS = "NAGuidance"
"""ComfyUI's node for other models, which has no effect on Wan's."""


def hints(prompt: Any, node_id: str | None, chosen: Settings) -> list[str]:
    """Returns a sentence for each.

    Args:
        prompt: API format; anything else says nothing.
        node_id: of the sampler or guider.
        chosen: its settings.
    """
    if not isinstance(prompt, Mapping) or node_id is None or node_id not in prompt:
        return []
    graph = Graph(prompt)
    names = [name for name in MODELS if graph.given(node_id, name)]
    return [
        *_negative(graph, node_id, names, chosen),
        *_swapped(graph, node_id, names),
        *_apart(graph, node_id, names),
    ]


def _negative(graph: Graph, node_id: str, names: Sequence[str], chosen: Settings) -> list[str]:
    """Of a negative prompt that no forward pass sees."""
    scales = [chosen.cfg_high, *([chosen.cfg_low] if len(names) > 1 else [])]
    scales += [chosen.cfg_start] if chosen.start_steps else []
    kinds = {graph.kind(found.node_id) for name in names for found in graph.chain(node_id, name)}
    has_nag = any("NAG" in kind for kind in kinds - {FOR_OTHERS})
    if has_nag or any(scale != 1 for scale in scales) or not _typed_negative(graph, node_id):
        return []
    return [
        "The negative prompt has no effect at cfg 1. Put 'Wan 2.2 NAG' behind the LoRAs if it is "
        "to have one."
    ]


def _typed_negative(graph: Graph, node_id: str) -> bool:
    found = graph.link(node_id, "negative")
    for _ in range(MAX_CHAIN):
        if found is None:
            return False
        kind = graph.kind(found.node_id)
        if kind in NEGATIVES:
            return bool(str(graph.value(found.node_id, NEGATIVES[kind], "")).strip())
        found = graph.link(found.node_id, "negative")
    return False


def _swapped(graph: Graph, node_id: str, names: Sequence[str]) -> list[str]:
    """Of LoRAs of other nodes on the other expert; our own node refuses them."""
    if len(names) < len(MODELS):
        return []
    high, low = (
        [lora.name for lora in few_steps.named_in(graph, node_id, name).loras if not lora.ours]
        for name in names
    )
    for pair in product(high, low):
        if guess_pair(*map(Path, pair)) == ("low", "high"):
            return [
                f"The LoRAs look swapped, by their names: {pair[0]} is on the high-noise expert, "
                f"{pair[1]} on the low-noise one. Swap them."
            ]
    other = [(name, "high") for name in high if says_noise(Path(name).name) == "low"]
    other += [(name, "low") for name in low if says_noise(Path(name).name) == "high"]
    return [
        f"{name} is on the {expert}-noise expert, but made for the other one by its name. Give "
        "each expert its own file."
        for name, expert in other
    ]


def _apart(graph: Graph, node_id: str, names: Sequence[str]) -> list[str]:
    """Of experts whose weights two engines move, each with a plan of its own."""
    found = [find_model(graph, describe_file, node_id, name) for name in names]
    loaders = {model.output.node_id for model in found if model is not None}
    if len(loaders) < len(MODELS) or any(graph.kind(each) != SINGLE for each in loaders):
        return []
    moved = has_engine_by_default(runtime.compute_device())
    if not moved and not all(graph.given(each, "memory") for each in loaders):
        return []
    return [
        "Two loaders hold the experts. 'Wan 2.2 Load 14B Experts' has them share the memory, and "
        "fetches the second while the first still computes. Use it in their place."
    ]
