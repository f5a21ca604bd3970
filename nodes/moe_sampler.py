"""The sampler over both experts."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from comfy_api.latest import io

from ..wan_model.presets import AUTO, Settings
from ..wan_model.sampling import ExpertPlan, trim_steps
from . import run_hints, run_pace, settings
from ._comfy.host import runtime
from ._comfy.model import facts
from ._comfy.model.window_work import frames_seen, windows_per_step
from ._comfy.sampling import samplers
from ._comfy.sampling.guider import MoEGuider
from ._comfy.sampling.run import as_video, sample_latent
from ._comfy.sampling.run_watch import RunWatch
from ._report import reports_errors
from .checked_inputs import Conditioning, Latent, Model
from .loader_settings import pace_key
from .prompt_check.graph import Graph
from .prompt_check.known_files import describe_file, find_model
from .prompt_check.number_rules import WHOLE_RUN
from .sampler_models import SamplerModels, start_socket
from .search_words import search_words
from .widgets import widgets

SAMPLING = (
    "seed",
    "steps",
    "cfg_high",
    "cfg_low",
    "sampler",
    "scheduler",
    "shift",
    "boundary",
    "denoise",
)
FEW_STEPS = ("preset", "start_steps", "cfg_start")
"""Appended to the others, as is the socket model_start, and so optional."""
STEP_RANGE = ("start_at_step", "end_at_step", "add_noise", "return_with_leftover_noise")


class WanDuetMoESampler(io.ComfyNode):
    """Samples a video in one solver run over the high-noise and the low-noise expert."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return io.Schema(
            node_id="WanDuetMoESampler",
            display_name="Wan 2.2 Sampler",
            **search_words("WanDuetMoESampler"),
            category="Wan 2.2",
            description=(
                "Makes the video: one run over both experts that hands over where the model was "
                "trained to. Zeros and auto are what the model is made for."
            ),
            inputs=_inputs(),
            outputs=[io.Latent.Output(display_name="latent")],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo, io.Hidden.prompt],
        )

    @classmethod
    @reports_errors
    def execute(
        cls,
        model_high: Any,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        seed: int,
        denoise: float,
        start_at_step: int,
        end_at_step: int,
        add_noise: str,
        return_with_leftover_noise: str,
        model_low: Any = None,
        preset: str = AUTO,
        model_start: Any = None,
        **values: Any,
    ) -> io.NodeOutput:
        """Checks everything that can be checked, shows the plan, samples.

        `values` are those that may be left open: steps, shift, boundary, sampler, scheduler,
        cfg_high, cfg_low, start_steps, cfg_start.
        """
        latent_image = as_video(model_high, latent_image)
        high, unread = _checked(model_high, model_low, positive, negative, latent_image)
        facts.check_start(high, model_start)
        values["shift"], said = settings.shift_of_run(values["shift"], model_high, model_low)
        typed = settings.typed(**values)
        models = (model_high, model_low, model_start)
        run = SamplerModels(*models, cls.hidden.prompt, cls.hidden.unique_id)
        chosen, why = settings.resolve(run.as_choice(high), typed, preset, denoise)
        sigmas = samplers.make_schedule(
            chosen.sampler, chosen.scheduler, chosen.steps, chosen.shift, denoise, chosen.levels
        )
        sigmas = trim_steps(
            sigmas, start_at_step, end_at_step, return_with_leftover_noise == "disable"
        )
        start = max(0, chosen.start_steps - start_at_step)
        boundary = chosen.boundary if model_low is not None else 0.0
        first_steps = ExpertPlan.of(sigmas, boundary, start).steps_start
        plan = _plan_text(high, chosen, sigmas, start, model_low is not None)
        said += run_hints.hints(run.prompt, run.node_id, chosen)
        text = "\n".join([plan, *why, *run.said(first_steps), *said, *unread])
        runtime.show(cls.hidden.unique_id, text)
        guider = run.guider(chosen, start, heading=text)
        guider.set_conds(positive, negative)
        keys = _pace_keys(run, max(0, len(sigmas) - 1))
        chosen_sampler = samplers.make_sampler(chosen.sampler)
        with_noise = add_noise == "enable"
        result, report, watch = _run(guider, chosen_sampler, sigmas, latent_image, seed, with_noise)
        _remember_paces(guider, watch, keys, latent_image["samples"].shape)
        record = {
            "model": high.label,
            **asdict(chosen),
            "preset": preset,
            "seed": seed,
            "denoise": denoise,
            "report": f"{text}\n{report}",
        }
        _note_in_metadata(cls.hidden.extra_pnginfo, cls.hidden.unique_id, record)
        return io.NodeOutput(result, ui={"wanduet_report": [record]})


def _run(
    guider: MoEGuider,
    sampler: Any,
    sigmas: Any,
    latent: dict[str, Any],
    seed: int,
    add_noise: bool,
) -> tuple[dict[str, Any], str, RunWatch]:
    """Returns the sampled latent, what the run took and said, and its times."""
    guider.watch = watch = RunWatch(guider.names_of_steps(sigmas), runtime.compute_device())
    with runtime.listening() as said:
        result = sample_latent(
            guider, sampler, sigmas, latent, seed=seed, add_noise=add_noise, watch=watch
        )
    return result, "\n".join([*watch.report(), *said]), watch


def _pace_keys(run: SamplerModels, steps: int) -> dict[str, str]:
    """Returns what the times of a run's inputs are kept under, where that is known before it."""
    if run.prompt is None or run.node_id is None:
        return {}
    graph, keys = Graph(run.prompt), {}
    for name in ("model_high", "model_low"):
        model = find_model(graph, describe_file, run.node_id, name)
        key = None if model is None else pace_key(graph, model, steps)
        if key is not None:
            keys[name] = key
    return keys


def _remember_paces(
    guider: MoEGuider, watch: RunWatch, keys: dict[str, str], shape: Sequence[int]
) -> None:
    """Keeps the time of a forward pass of each expert for the next run's plan."""
    pace = watch.settled_pace()
    for expert in guider.experts:
        key = keys.get("model_low" if expert.name == "low" else "model_high")
        if key is None or expert.name == "start" or expert.name not in pace:
            continue
        handler = expert.patcher.model_options.get("context_handler")
        windows = windows_per_step(handler, shape[2], len(watch.experts))
        if windows is None:
            continue
        seen = frames_seen(handler, shape[2])
        tokens = seen * ((shape[3] + 1) // 2) * ((shape[4] + 1) // 2)
        seconds = pace[expert.name] / expert.passes / shape[0] / windows
        run_pace.remember(run_pace.Passes(key, tokens, seconds))


def _note_in_metadata(metadata: Any, node_id: str | None, record: dict[str, Any]) -> None:
    """Adds the run to what later nodes of this prompt save into their files."""
    if isinstance(metadata, dict):
        runs = metadata.get("wanduet")  # a client may have sent anything
        others = runs if isinstance(runs, dict) else {}
        metadata["wanduet"] = {**others, str(node_id): record}


def _checked(
    model_high: Any, model_low: Any, positive: Any, negative: Any, latent_image: dict[str, Any]
) -> tuple[facts.ModelFacts, list[str]]:
    """Returns what the model is, and what is to be said of conditionings that it does not read.

    Raises:
        PairingError: for inputs that do not belong together.
    """
    high = facts.of_experts(model_high, model_low)
    facts.check_latent(high, latent_image["samples"])
    unread = facts.check_conditionings(high, positive, negative)
    facts.check_image_length(high, positive, negative, latent_image["samples"])
    return high, unread


def _inputs() -> list[Any]:
    preset, *numbers = widgets(*FEW_STEPS)
    return [*_sockets(), *widgets(*SAMPLING, *STEP_RANGE), preset, start_socket(), *numbers]


def _sockets() -> list[Any]:
    """What is connected."""
    return [
        Model.Input("model_high", tooltip="High-noise expert, or the only model (TI2V-5B)."),
        Model.Input(
            "model_low",
            optional=True,
            tooltip="Low-noise expert of the same model. Leave it empty for TI2V-5B.",
        ),
        Conditioning.Input(
            "positive",
            tooltip="Positive prompt, with any images, from 'Wan 2.2 Video Size & Images'.",
        ),
        Conditioning.Input(
            "negative",
            tooltip="Negative prompt, with any images, from 'Wan 2.2 Video Size & Images'.",
        ),
        Latent.Input(
            "latent_image",
            tooltip="Size and length of the video, from 'Wan 2.2 Video Size & Images'.",
        ),
    ]


def _plan_text(
    model: facts.ModelFacts, chosen: Settings, sigmas: Any, start: int, two_experts: bool
) -> str:
    """Says what will run, with the values chosen automatically."""
    count = max(0, len(sigmas) - 1)
    labels = [model.label, *([f"speed: {model.speed}"] if model.speed else [])]
    spacing = "noise levels of its own" if chosen.levels else f"shift {chosen.shift:g}"
    how = f"{chosen.sampler}/{chosen.scheduler}, {spacing}"
    plan = ExpertPlan.of(sigmas, chosen.boundary if two_experts else 0.0, start)
    first = f"{chosen.cfg_start:g} | " if plan.steps_start else ""
    if not two_experts:
        steps = f"{count} steps" + (f", {plan.steps_start} of them first steps" if first else "")
        lines = [*labels, f"{steps}, {how}, cfg {first}{chosen.cfg_high:g}"]
        experts = ExpertPlan.of(sigmas, chosen.boundary)
        foreign = {"high": experts.steps_low, "low": experts.steps_high}.get(model.expert or "", 0)
        other = "low" if model.expert == "high" else "high"
        if foreign:
            lines.append(f"{foreign} of {count} steps are those of a {other}-noise expert.")
        return "\n".join(lines)
    lines = [
        *labels,
        f"{plan.describe()} (boundary {chosen.boundary:g})",
        f"{count} steps, {how}, cfg {first}{chosen.cfg_high:g} | {chosen.cfg_low:g}",
    ]
    if plan.steps_start < min(start, count) and chosen.start_steps < WHOLE_RUN:
        lines.append(
            f"start_steps is {chosen.start_steps}; high noise has {plan.steps_start} steps, which "
            "are all first steps."
        )
    full_run = count == chosen.steps
    return "\n".join([*lines, *(plan.warnings() if full_run else [])])


NODES: list[type[io.ComfyNode]] = [WanDuetMoESampler]
