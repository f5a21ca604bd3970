"""What a run will be, told before it starts from the workflow and the headers of its files."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..wan_model.config import DiTConfig, Precision
from ..wan_model.dit.activation_memory import activation_bytes
from ..wan_model.errors import WanError
from ..wan_model.presets import AUTO, Models, Settings
from ..wan_model.sampling import ExpertPlan
from ..wan_model.shapes import LatentSize, latent_size
from . import few_steps, run_pace, settings
from ._comfy.host import runtime
from ._comfy.model.computing import computing, said_of_few_tokens
from ._comfy.model.placement import has_engine_by_default
from ._comfy.model.precision_choice import precision_at
from ._comfy.model.window_work import Cut
from ._comfy.sampling import samplers
from ._comfy.sampling.run_watch import GIB, clock
from .loader_settings import (
    ALL_WINDOWS,
    STEP_CACHE,
    Place,
    by_place,
    is_ours,
    pace_key,
    wanted,
    who_chooses,
)
from .prompt_check.graph import Graph
from .prompt_check.known_files import Describe, Model, describe_file, find_model
from .run_hints import MODELS, hints
from .speed_tiers import nothing_skipped
from .video_size import FREE, SIZES, chosen_length, chosen_size
from .window_plan import Seen, seen_at

SIZE = "WanDuetImageToVideo"
NUMBERS = ("steps", "shift", "boundary", "cfg_high", "cfg_low", "start_steps", "cfg_start")
"""Widgets of which 0 is automatic."""
SHIFTED = "ModelSamplingSD3"
"""ComfyUI's node with the shift of a MODEL."""


def plan_lines(prompt: dict[str, Any], node_id: str) -> list[str]:
    """Returns what is known of the run of a sampler before it starts, a line for each subject.

    Args:
        prompt: API format.
        node_id: of the sampler.
    """
    graph = Graph(prompt)
    found = {name: find_model(graph, describe_file, node_id, name) for name in MODELS}
    models = [model for model in found.values() if model is not None]
    if not models:
        return []
    lines = [f"{model.info.label}, {_bytes(model.info.bytes)}" for model in models]
    chosen, why = settings_of(graph, node_id, models[0])
    if why:
        lines += [_described(chosen, alone=len(models) < 2), *why]
    size = _size(graph, node_id, models[0])
    try:
        places = by_place(graph, models)
    except WanError as error:
        return [*lines, str(error)]
    steps = _running_steps(graph, node_id, chosen.steps)
    lines += _kernels(graph, places, size, (len(steps), chosen.cfg_high))
    batch = _batch(graph, node_id)
    if size is None or batch is None:
        return lines
    seen = [
        seen_at(graph, node_id, name, size.frames, len(steps))
        for name, model in found.items()
        if model is not None
    ]
    shape = (batch, models[0].channels, size.frames, size.height, size.width)
    lines.append(_length(size, models[0].official.fps, seen, batch))
    lines.append(_memory(graph, places, Cut(shape, max(each.frames for each in seen))))
    keys = [pace_key(graph, model, len(steps)) for model in models]
    passes = [batch * count for count in _passes(graph, node_id, chosen, steps)]
    return [*lines, _time(keys, size, seen, passes)]


def settings_of(
    graph: Graph, node_id: str, model: Model, describe: Describe = describe_file
) -> tuple[Settings, list[str]]:
    """Returns what a sampler will use, and what is to be said of where that comes from."""
    alone = not graph.given(node_id, "model_low")
    models = MODELS[:1] if alone else MODELS
    named = [few_steps.named_in(graph, node_id, name, describe) for name in models]
    high, low = named[0].distilled, None if alone else named[1].distilled
    has_start = graph.given(node_id, "model_start")
    numbers = {name: graph.number(node_id, name) for name in NUMBERS}
    counts = {name: int(numbers.pop(name) or 0) for name in ("steps", "start_steps")}
    names = {name: str(graph.value(node_id, name, AUTO)) for name in ("sampler", "scheduler")}
    numbers["boundary"] = min(1, numbers["boundary"] or 0)
    front = dict.fromkeys(_shift_in_front(graph, node_id, name) for name in models)
    known = [shift for shift in front if shift is not None]
    numbers["shift"], said = settings.shift_with(numbers["shift"] or 0.0, known)
    chosen, why = settings.resolve(
        Models(kind=model.kind, high=high, low=low, has_start=has_start),
        settings.typed(**numbers, **counts, **names),
        str(graph.value(node_id, "preset", AUTO)),
        1.0 if (denoise := graph.number(node_id, "denoise")) is None else denoise,
    )
    why += few_steps.said_of_foreign(*named)
    why += few_steps.said_of_unsure(graph, node_id, models, named)
    if chosen.start_steps:
        why.append(few_steps.of_start(has_start, high))
    return chosen, [*why, *said, *hints(graph.nodes, node_id, chosen)]


def _shift_in_front(graph: Graph, node_id: str, name: str) -> float | None:
    """Returns the shift that a node gives to a model; None without, or if a link decides it."""
    kinds = ((graph.kind(found.node_id), found.node_id) for found in graph.chain(node_id, name))
    source = next((each for kind, each in kinds if kind == SHIFTED), None)
    return None if source is None else graph.number(source, "shift")


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


def _running_steps(graph: Graph, node_id: str, steps: int) -> range:
    """Returns which steps of a schedule run, as `trim_steps` takes them."""
    start = int(graph.number(node_id, "start_at_step") or 0)
    end = graph.number(node_id, "end_at_step")
    return range(start, steps if end is None else min(int(end), steps))


def _kernels(
    graph: Graph, places: Sequence[Place], size: LatentSize | None, run: tuple[int, float]
) -> list[str]:
    """Returns how models compute, once for those of which the same is to be said.

    Args:
        graph: the workflow.
        places: where they run.
        size: of the video, if it is known.
        run: its steps, and the guidance scale.
    """
    found = [_how(graph, place, size, run) for place in places]
    if all(lines == found[0] for lines in found):
        return found[0]
    return [
        f"{place.noises[0]}: {line}"
        for place, lines in zip(places, found, strict=True)
        for line in lines
    ]


def _how(graph: Graph, place: Place, size: LatentSize | None, run: tuple[int, float]) -> list[str]:
    """Returns the same of models of one loader on one device."""
    models = place.models
    if not is_ours(graph, models[0]):
        return [who_chooses(graph, models[0])]
    asked = wanted(graph, models[0])
    if asked is None:
        return ["Precision and attention: known when the loader runs"]
    try:
        found = computing(asked, [m.info for m in models], place.device, measured=False)
    except WanError as error:
        return [str(error)]
    tier = asked.tier
    speed = [] if tier is None else [f"speed: {tier.name}"]
    lines = ["; ".join([*found.matmuls, found.attention, *speed])]
    between = {kind for model in models for kind, _ in model.way}
    in_windows = not between.isdisjoint(ALL_WINDOWS)
    if size is not None and not in_windows:  # attention sees a window's tokens
        lines += said_of_few_tokens(found.attend, size.tokens)
    if STEP_CACHE not in between:
        lines += nothing_skipped(tier, *run, in_windows=in_windows)
    return lines


def _described(chosen: Settings, *, alone: bool) -> str:
    scales = [chosen.cfg_start] if chosen.start_steps else []
    scales += [chosen.cfg_high] if alone else [chosen.cfg_high, chosen.cfg_low]
    cfg = " | ".join(f"{scale:g}" for scale in scales)
    spacing = "its own noise levels" if chosen.levels else f"shift {chosen.shift:g}"
    return f"{chosen.steps} steps, {chosen.sampler}/{chosen.scheduler}, {spacing}, cfg {cfg}"


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


def _bytes(nbytes: int) -> str:
    """Returns a size for people; tiny models are no 0.0 GiB."""
    return f"{nbytes / GIB:.1f} GiB" if nbytes > GIB / 10 else f"{nbytes / 2**20:.0f} MiB"


def _batch(graph: Graph, node_id: str) -> int | None:
    """Returns how many videos a run makes at once; None where only the run will know it."""
    source = graph.link(node_id, "latent_image")
    if source is not None and graph.given(source.node_id, "batch_size"):
        return None
    count = None if source is None else graph.number(source.node_id, "batch_size")
    return max(1, int(count or 1))


def _length(size: LatentSize, fps: float, seen: Sequence[Seen], batch: int) -> str:
    """Says how long a video is, and what of it the model sees at once."""
    seconds = (4 * (size.frames - 1) + 1) / fps
    length = f"{seconds:.1f} s of video" if batch == 1 else f"{batch} videos of {seconds:.1f} s"
    most = max(seen, key=lambda each: each.frames)
    if most.windows in (None, 1):
        return f"{length}, {size.tokens} tokens"
    tokens = most.frames * size.tokens // size.frames
    return f"{length}, in about {most.windows:.0f} windows of {tokens} tokens"


def _memory(graph: Graph, places: Sequence[Place], cut: Cut) -> str:
    """Predicts the peak of a device's memory; experts take turns there.

    Of two devices it is that of the one where more is needed.
    """
    if any(wanted(graph, model) is None for place in places for model in place.models):
        return "Predicted peak: known when the loader runs"
    most = max(places, key=lambda place: max(model.info.bytes for model in place.models))
    device = most.device
    models = [model for place in places if place.device == device for model in place.models]
    config = models[0].info.config
    assert isinstance(config, DiTConfig)
    asked = wanted(graph, models[0])
    precision = AUTO if asked is None else precision_at(asked.tier, asked.precision, device)
    numbers = Precision(compute_dtype=runtime.compute_dtype(precision, device))
    batch, _, frames, height, width = cut.of_pass(cut.shape)
    video = activation_bytes(config, numbers, batch, frames, height, width)
    video += cut.beside_bytes(config.cond_channels)
    weights = max(model.info.bytes for model in models)
    if device.type == "cpu":
        total = video + sum(model.info.bytes for model in models)
        return f"Predicted peak: {_bytes(total)} RAM for the model and the video, on the CPU"
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
    keys: Sequence[str | None], size: LatentSize, seen: Sequence[Seen], passes: Sequence[int]
) -> str:
    """Predicts the time of a run by those before it.

    Args:
        keys: of each model, what its times are kept under; None where links decide.
        size: of the video.
        seen: what each model sees of it at once.
        passes: of each expert, one in each window.
    """
    if None in keys:
        return "Predicted time: not known, since links set how the model is loaded or run"
    windows = [each.windows for each in seen if each.windows is not None]
    if len(windows) < len(seen):
        return "Predicted time: not known with these context windows"
    known = [
        run_pace.expected_seconds(key, each.frames * size.tokens // size.frames)
        for key, each in zip(keys, seen, strict=True)
        if key is not None
    ]
    some = next((seconds for seconds in known if seconds is not None), None)
    if some is None:
        return "Predicted time: known after the first run of this model with these settings here"
    parts = [
        (count * times * least, count * times * most)
        for count, times, (least, most) in zip(
            passes,
            (windows[0], windows[-1]),
            (known[0] or some, known[-1] or some),
            strict=True,
        )
    ]
    least, most = (sum(part) for part in zip(*parts, strict=True))
    return f"Predicted time: {clock(least)} to {clock(most)}"


def _passes(graph: Graph, node_id: str, chosen: Settings, steps: range) -> tuple[int, int]:
    """Returns the forward passes of each expert: two in a step with guidance."""
    whole, shift = chosen.steps, chosen.shift
    sigmas = samplers.make_schedule("unipc", "wan", whole, shift, 1.0, chosen.levels)
    alone = not graph.given(node_id, "model_low")
    plan = ExpertPlan.of(sigmas, 0.0 if alone else chosen.boundary, chosen.start_steps)
    high = [*[chosen.cfg_start] * plan.steps_start, *[chosen.cfg_high] * plan.steps_high]
    scales = [*high, *[chosen.cfg_low] * plan.steps_low]
    passes = [(1 if scale == 1 else 2) * (step in steps) for step, scale in enumerate(scales)]
    return sum(passes[: len(high)]), sum(passes[len(high) :])
