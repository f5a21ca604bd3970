"""What the loaders of a workflow are set to, read before it runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..wan_model.presets import AUTO, tiers
from ..wan_model.sampling import StepCacheSettings
from ._comfy.host import runtime
from ._comfy.model.computing import Wanted
from .prompt_check.graph import Graph
from .prompt_check.known_files import Model

OURS = "WanDuet"
CORES = "UNETLoader"
SETTINGS = ("precision", "attention", "speed")
DEVICES = ("device_high", "device_low")
"""Of our loader of two experts, by output."""
NOISES = ("High noise", "Low noise")
STEP_CACHE = "WanDuetStepCache"
WINDOWS = "WanDuetContextWindows"
CORES_WINDOWS = ("WanContextWindowsManual", "ContextWindowsManual")
ALL_WINDOWS = (WINDOWS, *CORES_WINDOWS)
PACED = (STEP_CACHE, "WanDuetCompile", "WanDuetDistribute")
"""Of what lies between loader and sampler, nodes whose values make passes longer or shorter."""


@dataclass(frozen=True)
class Place:
    """Models that one loader loads for one device."""

    device: torch.device
    models: list[Model]
    noises: list[str]
    """What they are for, for people."""


def is_ours(graph: Graph, model: Model) -> bool:
    """Whether one of our loaders loads a model."""
    return graph.kind(model.output.node_id).startswith(OURS)


def who_chooses(graph: Graph, model: Model) -> str:
    """Returns what is to be said of precision and attention where our loader does not load."""
    kind = graph.kind(model.output.node_id)
    who = "ComfyUI chooses for its own loader" if kind == CORES else f"the loader {kind} chooses"
    return f"Precision and attention: as {who}"


def wanted(graph: Graph, model: Model) -> Wanted | None:
    """Returns what one of our loaders is set to; None if another node decides some of it.

    The devices are a part of it, since both settings depend on them where they are automatic.
    """
    loader = model.output.node_id
    if any(graph.given(loader, name) for name in (*SETTINGS, *DEVICES)):
        return None
    precision, attention, speed = (str(graph.value(loader, name, AUTO)) for name in SETTINGS)
    return Wanted(precision, attention, tiers().get(speed))


def device_of(graph: Graph, model: Model) -> torch.device:
    """Returns where a model will run.

    Raises:
        SettingsError: if there is no such device.
    """
    name = str(graph.value(model.output.node_id, DEVICES[min(model.output.slot, 1)], AUTO))
    return runtime.device_called(name) if is_ours(graph, model) else runtime.compute_device()


def by_place(graph: Graph, models: Sequence[Model]) -> list[Place]:
    """Returns where models run: those of one loader on one device together.

    Raises:
        SettingsError: as `device_of`.
    """
    places: dict[tuple[str, torch.device], Place] = {}
    for model, noise in zip(models, NOISES, strict=False):
        device = device_of(graph, model)
        place = places.setdefault((model.output.node_id, device), Place(device, [], []))
        place.models.append(model)
        place.noises.append(noise)
    return list(places.values())


def pace_key(graph: Graph, model: Model, steps: int) -> str | None:
    """Returns what runs of equal length have in common, to tell a run's time by those before it.

    That is the device, the model with its format, what its loader is set to, the nodes between
    loader and sampler, and whether nothing is skipped by what could. Context windows are a matter
    of how long and how many passes are. None where links decide some of it.

    Args:
        graph: the workflow.
        model: found in it.
        steps: that run.

    Raises:
        SettingsError: as `device_of`.
    """
    asked = wanted(graph, model)
    if asked is None:
        return None
    tier_skips = asked.tier is not None and asked.tier.cache_threshold is not None
    label = model.info.label.replace(", high noise", "").replace(", low noise", "")
    loader = model.output.node_id
    windows = [values for kind, values in model.way[:-1] if kind in ALL_WINDOWS]
    others = [(kind, values) for kind, values in model.way[:-1] if kind not in ALL_WINDOWS]
    between = [f"{kind} {values}" if kind in PACED else kind for kind, values in others]
    known = [*windows, *(values for kind, values in others if kind in PACED)]
    if is_ours(graph, model):
        how = ", ".join(f"{name} {graph.value(loader, name, AUTO)}" for name in SETTINGS)
        memory = graph.link(loader, "memory")
        if memory is not None:
            known.append(graph.values(memory.node_id))
            how += f", memory {known[-1]}"
    else:
        known.append(graph.values(loader))
        how = f"{graph.kind(loader)} {known[-1]}"
    if None in known:
        return None
    skips = any(kind == STEP_CACHE for kind, _ in others) or tier_skips
    if skips and (windows or StepCacheSettings().why_off(steps, guidance_scale=1)):
        between.append("every step")
    return " | ".join([runtime.device_name(device_of(graph, model)), label, how, *between])
