"""Guider, sigmas and sampler for SamplerCustomAdvanced and graphs of one's own."""

from typing import Any

from comfy_api.latest import io

from ..wan_model.presets import AUTO, Models
from ..wan_model.sampling import count_high_noise_steps
from . import few_steps, run_hints, settings
from ._comfy.host import runtime
from ._comfy.model import facts
from ._comfy.sampling import samplers
from ._report import reports_errors
from .checked_inputs import Conditioning, Model
from .sampler_models import SamplerModels, start_socket
from .search_words import search_words
from .widgets import widgets

CATEGORY = "Wan 2.2/custom sampling"

SHIFT_OF_SIGMAS = (
    "The shift that 'Wan 2.2 Sigmas' has. 0: official, or that of ModelSamplingSD3 in front."
)


PRESET_OF_GUIDER = (
    "Fills in what is 0 here; typed numbers stay. auto: what the model is made for. Steps, sampler "
    "and noise levels are those of the nodes beside this one."
)

NAMES = (
    "unipc: the official solver. dpm++: the official alternative. euler: for distilled models and "
    "LoRAs. The others are ComfyUI's; its uni_pc and dpmpp_2m are not the official ones."
)


class WanDuetMoEGuider(io.ComfyNode):
    """Routes each model call to the right expert, for any sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return io.Schema(
            node_id="WanDuetMoEGuider",
            display_name="Wan 2.2 Guider",
            **search_words("WanDuetMoEGuider"),
            category=CATEGORY,
            description=(
                "Both experts as one GUIDER for SamplerCustomAdvanced: each step goes to the "
                "right expert, with its own guidance."
            ),
            inputs=[
                Model.Input(
                    "model_high", tooltip="High-noise expert, or the only model (TI2V-5B)."
                ),
                Model.Input(
                    "model_low",
                    optional=True,
                    tooltip="Low-noise expert of the same model. Leave it empty for TI2V-5B.",
                ),
                Conditioning.Input(
                    "positive", tooltip="Positive prompt, with images if there are any."
                ),
                Conditioning.Input(
                    "negative", tooltip="Negative prompt, with images if there are any."
                ),
                *widgets("cfg_high", "cfg_low", "boundary"),
                *widgets("shift", optional=True, tooltip=SHIFT_OF_SIGMAS),
                *widgets("preset", tooltip=PRESET_OF_GUIDER),
                start_socket(),
                *widgets("start_steps", "cfg_start"),
            ],
            outputs=[io.Guider.Output(display_name="guider")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )

    @classmethod
    @reports_errors
    def execute(
        cls,
        model_high: Any,
        positive: Any,
        negative: Any,
        cfg_high: float,
        cfg_low: float,
        boundary: float,
        model_low: Any = None,
        shift: float = 0.0,
        preset: str = AUTO,
        model_start: Any = None,
        start_steps: int = 0,
        cfg_start: float = 0.0,
    ) -> io.NodeOutput:
        """Makes the guider."""
        high = facts.of_experts(model_high, model_low)
        facts.check_start(high, model_start)
        unread = facts.check_conditionings(high, positive, negative)
        shift, said = settings.shift_of_run(shift, model_high, model_low)
        typed = settings.typed(
            shift=shift,
            boundary=boundary,
            cfg_high=cfg_high,
            cfg_low=cfg_low,
            start_steps=start_steps,
            cfg_start=cfg_start,
        )
        models = (model_high, model_low, model_start)
        run = SamplerModels(*models, cls.hidden.prompt, cls.hidden.unique_id)
        chosen, why = settings.resolve(run.as_choice(high), typed, preset)
        guider = run.guider(chosen, chosen.start_steps)
        guider.set_conds(positive, negative)
        scales = {"start": chosen.cfg_start, "low": chosen.cfg_low}
        named = [scales.get(one.name, chosen.cfg_high) for one in guider.experts]
        switch = "" if model_low is None else f", boundary {chosen.boundary:g}"
        cfg = " | ".join(f"{scale:g}" for scale in named)
        text = f"{high.label}\ncfg {cfg}{switch}, shift {chosen.shift:g}"
        if model_low is None and high.expert is not None:
            said.append(f"The {high.expert}-noise expert runs alone, at all noise levels.")
        said += run_hints.hints(run.prompt, run.node_id, chosen)
        of_models = run.said(chosen.start_steps)
        runtime.show(cls.hidden.unique_id, "\n".join([text, *why, *of_models, *said, *unread]))
        return io.NodeOutput(guider)


class WanDuetSigmas(io.ComfyNode):
    """Makes the noise schedule of a run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return io.Schema(
            node_id="WanDuetSigmas",
            display_name="Wan 2.2 Sigmas",
            **search_words("WanDuetSigmas"),
            category=CATEGORY,
            description=(
                "Noise levels for SamplerCustomAdvanced, and the step at which the low-noise "
                "expert takes over."
            ),
            inputs=[
                *widgets("steps", "shift"),
                *widgets("scheduler", options=samplers.scheduler_names, default="wan"),
                *widgets("boundary", "denoise"),
                Model.Input(
                    "model",
                    optional=True,
                    tooltip=(
                        "Model whose official values 0 stands for. Without one they are those of "
                        "T2V 14B."
                    ),
                ),
                *widgets(
                    "sampler",
                    options=samplers.sampler_names,
                    default="unipc",
                    optional=True,
                    tooltip=(
                        "The sampler that will run these sigmas: unipc has an official list of "
                        "its own, all others share that of dpm++."
                    ),
                ),
            ],
            outputs=[
                io.Sigmas.Output(display_name="sigmas"),
                io.Int.Output(display_name="switch_step"),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )

    @classmethod
    @reports_errors
    def execute(
        cls,
        steps: int,
        shift: float,
        scheduler: str,
        boundary: float,
        denoise: float,
        model: Any = None,
        sampler: str = "unipc",
    ) -> io.NodeOutput:
        """Makes the list and counts the high-noise steps."""
        node_id, prompt = cls.hidden.unique_id, cls.hidden.prompt
        models = Models(kind="t2v", low=[])
        if model is not None:
            kind = facts.model_facts(model).kind
            found = few_steps.of_input(model, prompt, node_id, "model")
            models = Models(kind=kind, high=found, low=found)
        shift, said = settings.shift_of_run(shift, model)
        said += few_steps.of_foreign(prompt, node_id, "model")
        own_spacing = AUTO if scheduler == "wan" else scheduler
        typed = settings.typed(steps=steps, shift=shift, boundary=boundary, scheduler=own_spacing)
        chosen, why = settings.resolve(models, typed, denoise=denoise)
        if scheduler == "wan" and chosen.levels:
            said.append(
                "Scheduler wan leaves the noise levels to the model, which has its own. Choose "
                "another scheduler for others."
            )
        sigmas = samplers.make_schedule(
            sampler, scheduler, chosen.steps, chosen.shift, denoise, chosen.levels
        )
        switch_step = count_high_noise_steps(sigmas, chosen.boundary)
        text = (
            f"High {switch_step} | Low {max(0, len(sigmas) - 1) - switch_step} "
            f"(shift {chosen.shift:g}, boundary {chosen.boundary:g})"
        )
        runtime.show(cls.hidden.unique_id, "\n".join([text, *why, *said]))
        return io.NodeOutput(sigmas, switch_step)


class WanDuetSamplerSelect(io.ComfyNode):
    """Names a sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return io.Schema(
            node_id="WanDuetSamplerSelect",
            display_name="Wan 2.2 Sampler Select",
            **search_words("WanDuetSamplerSelect"),
            category=CATEGORY,
            description=(
                "The official solvers as a SAMPLER for SamplerCustomAdvanced, and every sampler "
                "of ComfyUI."
            ),
            inputs=widgets(
                "sampler", options=samplers.sampler_names, default="unipc", tooltip=NAMES
            ),
            outputs=[io.Sampler.Output(display_name="sampler")],
        )

    @classmethod
    @reports_errors
    def execute(cls, sampler: str) -> io.NodeOutput:
        """Makes the sampler."""
        return io.NodeOutput(samplers.make_sampler(sampler))


NODES: list[type[io.ComfyNode]] = [WanDuetMoEGuider, WanDuetSigmas, WanDuetSamplerSelect]
