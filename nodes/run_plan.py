"""What a run will be, told before it starts from the workflow and the headers of its files."""

from dataclasses import asdict
from typing import Any

import torch

from ..wan_model.config import DiTConfig, Precision
from ..wan_model.dit.activation_memory import activation_bytes
from ..wan_model.errors import WanError
from ..wan_model.presets import AUTO, Models, Settings, Tier, tiers
from ..wan_model.sampling import ExpertPlan
from ..wan_model.shapes import LatentSize, latent_size
from . import few_steps, run_pace, settings
from ._comfy.host import runtime
from ._comfy.model.attention_choice import planned as planned_attention
from ._comfy.model.placement import has_engine_by_default
from ._comfy.model.precision_choice import explain as explain_precision
from ._comfy.model.precision_choice import precision_at
from ._comfy.sampling import samplers
from ._comfy.sampling.run_watch import GIB, clock
from .prompt_check.graph import Graph
from .prompt_check.known_files import Describe, Model, describe_file, find_model
from .video_size import FREE, SIZES, chosen_length, chosen_size

OURS = "WanDuet"
SIZE = "WanDuetImageToVideo"
NUMBERS = ("steps", "shift", "boundary", "cfg_high", "cfg_low", "start_steps", "cfg_start")
"""Widgets of which 0 is automatic."""


def plan_lines(prompt: dict[str, Any], node_id: str) -> list[str]:
    """Returns what is known of the run of a sampler before it starts, a line for each subject.

    Args:
        prompt: API format.
        node_id: of the sampler.
    """
    graph = Graph(prompt)
    found = [
        find_model(graph, describe_file, node_id, name) for name in ("model_high", "model_low")
    ]
    models = [model for model in found if model is not None]
    if not models:
        return []
    lines = [f"{model.info.label}, {model.info.bytes / GIB:.1f} GiB" for model in models]
    chosen, why = settings_of(graph, node_id, models[0])
    if why:
        lines += [_described(chosen, alone=len(models) < 2), *why]
    device = runtime.compute_device()
    tier = _tier(graph, models[0])
    precision = str(graph.value(models[0].output.node_id, "precision", AUTO))
    precision = precision_at(tier, precision, [model.info for model in models], device)
    lines.append(_kernels(graph, models[0], precision, tier, device))
    size = _size(graph, node_id, models[0])
    if size is None:
        return lines
    official = models[0].official
    length = 4 * (size.frames - 1) + 1
    lines.append(f"{length / official.fps:.1f} s of video, {size.tokens} tokens")
    lines.append(_memory(graph, models, precision, size, device))
    return [*lines, _time(graph, node_id, models, size, chosen)]


def settings_of(
    graph: Graph, node_id: str, model: Model, describe: Describe = describe_file
) -> tuple[Settings, list[str]]:
    """Returns what a sampler will use, and what is to be said of where that comes from."""
    alone = not graph.given(node_id, "model_low")
    high = few_steps.named_in(graph, node_id, "model_high", describe).distilled
    low = None
    if not alone:
        low = few_steps.named_in(graph, node_id, "model_low", describe).distilled
    has_start = graph.given(node_id, "model_start")
    numbers = {name: graph.number(node_id, name) for name in NUMBERS}
    counts = {name: int(numbers.pop(name) or 0) for name in ("steps", "start_steps")}
    names = {name: str(graph.value(node_id, name, AUTO)) for name in ("sampler", "scheduler")}
    numbers["boundary"] = min(1, numbers["boundary"] or 0)
    chosen, why = settings.resolve(
        Models(kind=model.kind, high=high, low=low, has_start=has_start),
        settings.typed(**numbers, **counts, **names),
        str(graph.value(node_id, "preset", AUTO)),
        1.0 if (denoise := graph.number(node_id, "denoise")) is None else denoise,
    )
    if chosen.start_steps:
        why.append(few_steps.of_start(has_start, high))
    return chosen, why


def automatic(prompt: dict[str, Any], node_id: str) -> dict[str, Any] | None:
    """Returns what a sampler's widgets mean if they are 0 or "auto"; None if it is not known."""
    node = prompt[node_id]
    others = (*NUMBERS, "sampler", "scheduler", "denoise")
    inputs = {name: v for name, v in node["inputs"].items() if name not in others}
    graph = Graph({**prompt, node_id: {**node, "inputs": inputs}})
    model = find_model(graph, describe_file, node_id, "model_high")
    if model is None:
        return None
    chosen, why = settings_of(graph, node_id, model)
    return {**asdict(chosen), "why": why}


def _tier(graph: Graph, model: Model) -> Tier | None:
    return tiers().get(str(graph.value(model.output.node_id, "speed", AUTO)))


def _kernels(
    graph: Graph, model: Model, precision: str, tier: Tier | None, device: torch.device
) -> str:
    loader = model.output.node_id
    if not graph.kind(loader).startswith(OURS):
        return "Precision and attention: as ComfyUI chooses for its own loader"
    try:
        matmuls = explain_precision(precision, model.info, device)
    except WanError as error:
        matmuls = str(error)
    attention = str(graph.value(loader, "attention", AUTO))
    if tier is not None and attention == AUTO:
        attention = tier.attention[-1]
    kernel = planned_attention(attention, device, runtime.compute_dtype(precision))
    speed = "" if tier is None else f"; speed: {tier.name}"
    return f"{matmuls}; {kernel}{speed}"


def _described(chosen: Settings, *, alone: bool) -> str:
    scales = [chosen.cfg_start] if chosen.start_steps else []
    scales += [chosen.cfg_high] if alone else [chosen.cfg_high, chosen.cfg_low]
    cfg = " | ".join(f"{scale:g}" for scale in scales)
    spacing = "its own noise levels" if chosen.levels else f"shift {chosen.shift:g}"
    return f"{chosen.steps} steps, {chosen.sampler}/{chosen.scheduler}, {spacing}, cfg {cfg}"


def pace_key(label: str) -> str:
    """Returns what runs of equal length have in common: the model, its format and the device."""
    kind = label.replace(", high noise", "").replace(", low noise", "")
    return f"{runtime.device_name()} | {kind}"


def _size(graph: Graph, node_id: str, model: Model) -> LatentSize | None:
    source = graph.link(node_id, "latent_image")
    if source is None or graph.kind(source.node_id) != SIZE:
        return None
    node, official = source.node_id, model.official
    sides = [graph.number(node, name) for name in ("width", "height", "length")]
    chosen = str(graph.value(node, "size", FREE))
    if any(side is None for side in sides) or (chosen != FREE and chosen not in SIZES):
        return None
    width, height, length = (int(side or 0) for side in sides)
    # An image's aspect changes the sides of an area, and hardly the number of tokens.
    width, height, _ = chosen_size(chosen, width, height, False, official)
    length = chosen_length(graph.number(node, "seconds") or 0.0, length, official.fps)
    try:
        return latent_size(width, height, length, official.size_multiple // 2)
    except WanError:
        return None


def _memory(
    graph: Graph, models: list[Model], precision: str, size: LatentSize, device: torch.device
) -> str:
    """Predicts the peak of the device's memory; experts take turns there."""
    config = models[0].info.config
    assert isinstance(config, DiTConfig)
    numbers = Precision(compute_dtype=runtime.compute_dtype(precision))
    video = activation_bytes(config, numbers, 1, size.frames, size.height, size.width)
    weights = max(model.info.bytes for model in models)
    if device.type == "cpu":
        total = video + sum(model.info.bytes for model in models)
        return f"Predicted peak: {total / GIB:.1f} GiB RAM, on the CPU"
    free = runtime.spare_bytes(device)
    if video + weights <= free:
        return f"Predicted peak: {(video + weights) / GIB:.1f} of {free / GIB:.1f} GiB VRAM free"
    limited = graph.link(models[0].output.node_id, "memory") is not None
    who = "streamed" if limited or has_engine_by_default(device) else "moved by ComfyUI"
    rest = video + weights - free
    return (
        f"Predicted peak: all {free / GIB:.1f} GiB VRAM that are free, {rest / GIB:.1f} GiB of "
        f"weights {who}"
    )


def _time(
    graph: Graph, node_id: str, models: list[Model], size: LatentSize, chosen: Settings
) -> str:
    model = models[0]
    pass_seconds = run_pace.expected_seconds(pace_key(model.info.label), size.tokens)
    if pass_seconds is None:
        return "Predicted time: known after the first run of this model here"
    passes = _passes(graph, node_id, chosen)
    least, most = (passes * seconds for seconds in pass_seconds)
    return f"Predicted time: {clock(least)} to {clock(most)}"


def _passes(graph: Graph, node_id: str, chosen: Settings) -> int:
    """Returns the forward passes of a run: two in a step with guidance."""
    steps, shift = chosen.steps, chosen.shift
    sigmas = samplers.make_schedule("unipc", "wan", steps, shift, 1.0, chosen.levels)
    alone = not graph.given(node_id, "model_low")
    plan = ExpertPlan.of(sigmas, 0.0 if alone else chosen.boundary, chosen.start_steps)
    scales = [
        *[chosen.cfg_start] * plan.steps_start,
        *[chosen.cfg_high] * plan.steps_high,
        *[chosen.cfg_low] * plan.steps_low,
    ]
    start = int(graph.number(node_id, "start_at_step") or 0)
    end = int(graph.number(node_id, "end_at_step") or len(scales))
    return sum(1 if scale == 1 else 2 for scale in scales[start:end])
