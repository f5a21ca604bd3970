"""The node that gives a negative prompt an effect at guidance scale 1."""

from typing import Any

from comfy_api.latest import io

from ..wan_model.dit.text_guidance import GuidanceSettings
from ._comfy.model import facts
from ._comfy.model.negative_text import with_text_guidance
from ._report import reports_errors
from .checked_inputs import Conditioning, Model
from .search_words import search_words
from .widgets import widgets


class WanDuetNAG(io.ComfyNode):
    """Keeps both experts away from a negative prompt inside their attention to text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return io.Schema(
            node_id="WanDuetNAG",
            display_name="Wan 2.2 NAG (Negative Prompt at CFG 1)",
            **search_words("WanDuetNAG"),
            category="Wan 2.2",
            description=(
                "Makes the negative prompt work at cfg 1, where it has no effect otherwise: for "
                "4-step LoRAs. It costs almost no time."
            ),
            inputs=[
                Model.Input(
                    "model_high",
                    tooltip="High-noise expert, or TI2V-5B. The input is not changed.",
                ),
                Model.Input(
                    "model_low",
                    optional=True,
                    tooltip=(
                        "Low-noise expert. Leave it empty for TI2V-5B. The input is not changed."
                    ),
                ),
                Conditioning.Input(
                    "negative", tooltip="What to stay away from: 'negative' of 'Wan 2.2 Prompt'."
                ),
                *widgets("nag_scale", "nag_alpha", "nag_tau"),
            ],
            outputs=[
                io.Model.Output(display_name="model_high"),
                io.Model.Output(display_name="model_low"),
            ],
        )

    @classmethod
    @reports_errors
    def execute(
        cls,
        model_high: Any,
        negative: Any,
        nag_scale: float,
        nag_alpha: float,
        nag_tau: float,
        model_low: Any = None,
    ) -> io.NodeOutput:
        """Returns clones of both MODELs."""
        settings = GuidanceSettings(scale=nag_scale, alpha=nag_alpha, tau=nag_tau)
        facts.of_experts(model_high, model_low)
        given = (model for model in (model_high, model_low) if model is not None)
        guided = [with_text_guidance(model, negative, settings) for model in given]
        return io.NodeOutput(*guided, *[None] * (2 - len(guided)))


NODES: list[type[io.ComfyNode]] = [WanDuetNAG]
