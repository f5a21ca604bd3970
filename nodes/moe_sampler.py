"""The sampler over both experts."""

from dataclasses import asdict
from typing import Any

from comfy_api.latest import io

from ..wan_model.sampling import ExpertPlan, trim_steps
from . import run_pace, settings
from ._comfy.host import runtime
from ._comfy.model import facts
from ._comfy.sampling import samplers
from ._comfy.sampling.guider import Expert, MoEGuider
from ._comfy.sampling.run import as_video, sample_latent
from ._comfy.sampling.run_shift import at_shift
from ._comfy.sampling.run_watch import RunWatch
from ._report import reports_errors
from .checked_inputs import Conditioning, Latent, Model
from .run_plan import pace_key
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
                "trained to. All zeros are the official settings."
            ),
            inputs=_inputs(),
            outputs=[io.Latent.Output(display_name="latent")],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
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
        steps: int,
        cfg_high: float,
        cfg_low: float,
        sampler: str,
        scheduler: str,
        shift: float,
        boundary: float,
        denoise: float,
        start_at_step: int,
        end_at_step: int,
        add_noise: str,
        return_with_leftover_noise: str,
        model_low: Any = None,
    ) -> io.NodeOutput:
        """Checks everything that can be checked, shows the plan, samples."""
        latent_image = as_video(model_high, latent_image)
        high, unread = _checked(model_high, model_low, positive, negative, latent_image)
        shift, said = settings.shift_of_run(shift, model_high, model_low)
        chosen = settings.resolve(
            high.official,
            steps=steps,
            shift=shift,
            boundary=boundary,
            cfg_high=cfg_high,
            cfg_low=cfg_low,
        )
        sigmas = samplers.make_schedule(sampler, scheduler, chosen.steps, chosen.shift, denoise)
        sigmas = trim_steps(
            sigmas, start_at_step, end_at_step, return_with_leftover_noise == "disable"
        )
        two = model_low is not None
        text = "\n".join(
            [_plan_text(high, chosen, sigmas, sampler, scheduler, two), *said, *unread]
        )
        runtime.show(cls.hidden.unique_id, text)
        guider = MoEGuider(
            Expert(at_shift(model_high, chosen.shift), chosen.cfg_high),
            Expert(at_shift(model_low, chosen.shift), chosen.cfg_low) if two else None,
            chosen.boundary,
            heading=text,
        )
        guider.set_conds(positive, negative)
        chosen_sampler = samplers.make_sampler(sampler)
        with_noise = add_noise == "enable"
        result, report, watch = _run(guider, chosen_sampler, sigmas, latent_image, seed, with_noise)
        _remember_pace(guider, watch, high, latent_image)
        values = {"sampler": sampler, "scheduler": scheduler, "seed": seed, "denoise": denoise}
        record = {"model": high.label, **asdict(chosen), **values, "report": f"{text}\n{report}"}
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


def _remember_pace(guider: MoEGuider, watch: RunWatch, high: facts.ModelFacts, latent: Any) -> None:
    """Keeps the time of a forward pass for the next run's plan."""
    pace = watch.pace()
    first = next(iter(pace), None)
    if first is None or watch.experts.count(first) < 2:
        return  # the first step fetches weights and makes kernels
    passes = (guider.low if first == "low" and guider.low else guider.high).passes
    shape = latent["samples"].shape
    tokens = shape[2] * ((shape[3] + 1) // 2) * ((shape[4] + 1) // 2)
    seconds = pace[first] / passes / shape[0]
    run_pace.remember(run_pace.Passes(pace_key(high.label), tokens, seconds))


def _note_in_metadata(metadata: Any, node_id: str | None, record: dict[str, Any]) -> None:
    """Adds the run to what later nodes of this prompt save into their files."""
    if isinstance(metadata, dict):
        metadata.setdefault("wanduet", {})[str(node_id)] = record


def _checked(
    model_high: Any, model_low: Any, positive: Any, negative: Any, latent_image: dict[str, Any]
) -> tuple[facts.ModelFacts, list[str]]:
    """Returns what the model is, and what is to be said of conditionings that it does not read.

    Raises:
        PairingError: for inputs that do not belong together.
    """
    high = facts.model_facts(model_high)
    if model_low is not None:
        facts.check_experts(high, facts.model_facts(model_low))
    facts.check_latent(high, latent_image["samples"])
    unread = facts.check_conditionings(high, positive, negative)
    facts.check_image_length(high, positive, negative, latent_image["samples"])
    return high, unread


def _inputs() -> list[Any]:
    return [*_sockets(), *widgets(*SAMPLING, *STEP_RANGE)]


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
    model: facts.ModelFacts,
    chosen: settings.Settings,
    sigmas: Any,
    sampler: str,
    scheduler: str,
    two_experts: bool,
) -> str:
    """Says what will run, with the values chosen automatically."""
    count = max(0, len(sigmas) - 1)
    how = f"{sampler}/{scheduler}, shift {chosen.shift:g}"
    plan = ExpertPlan.of(sigmas, chosen.boundary)
    if not two_experts:
        lines = [model.label, f"{count} steps, {how}, cfg {chosen.cfg_high:g}"]
        foreign = {"high": plan.steps_low, "low": plan.steps_high}.get(model.expert or "", 0)
        other = "low" if model.expert == "high" else "high"
        if foreign:
            lines.append(f"{foreign} of {count} steps are those of a {other}-noise expert.")
        return "\n".join(lines)
    lines = [
        model.label,
        f"{plan.describe()} (boundary {chosen.boundary:g})",
        f"{count} steps, {how}, cfg {chosen.cfg_high:g} | {chosen.cfg_low:g}",
    ]
    full_run = count == chosen.steps
    return "\n".join([*lines, *(plan.warnings() if full_run else [])])


NODES: list[type[io.ComfyNode]] = [WanDuetMoESampler]
