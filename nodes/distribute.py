"""The node that has a model's forward passes run on several GPUs."""

from typing import Any

from comfy_api.latest import io

from ._comfy.cluster.remote_model import distributed
from ._comfy.cluster.remote_pool import MODES
from ._report import reports_errors
from .checked_inputs import Choice, Model
from .search_words import search_words


class WanDuetDistribute(io.ComfyNode):
    """Has one video computed by several GPUs, or each expert by its own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return io.Schema(
            node_id="WanDuetDistribute",
            display_name="Wan 2.2 Distribute (Several GPUs)",
            **search_words("WanDuetDistribute"),
            category="Wan 2.2",
            description="Has several GPUs compute one video. Everything else stays as it is: "
            "samplers, LoRAs, previews, the cancel button. Needs the package 'ray' in ComfyUI's "
            "Python (pip install ray). Weights are read once from the disk and are on each GPU.",
            inputs=[
                Model.Input(
                    "model_high",
                    tooltip="High-noise expert, or TI2V-5B, of our loaders. It is left as it is.",
                ),
                Model.Input(
                    "model_low",
                    optional=True,
                    tooltip="Low-noise expert. It is left as it is. Leave it empty for TI2V-5B.",
                ),
                Choice.Input(
                    "mode",
                    options=list(MODES),
                    default="auto",
                    tooltip="What GPUs share. auto: with guidance (cfg above 1), half of them "
                    "compute the pass with the prompt, the others the one without; else each a "
                    "part of the video. ulysses: always a part of the video, which needs fast "
                    "links. cfg: the two passes of guidance. cfg+ulysses: both. experts: each "
                    "expert on half of the GPUs, so that none waits for weights.",
                ),
                io.Int.Input(
                    "gpus",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="How many. 0: all. Parts of a video need a divisor of the model's "
                    "heads: of 40 (14B) or 24 (5B).",
                ),
                io.String.Input(
                    "address",
                    default="",
                    tooltip="Leave it empty for the GPUs of this computer. For a Ray cluster that "
                    "runs already: its address, such as 10.0.0.1:6379; the model files must be at "
                    "the same place on all its computers.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model_high"),
                io.Model.Output(display_name="model_low"),
            ],
        )

    @classmethod
    @reports_errors
    def execute(
        cls, model_high: Any, mode: str, gpus: int, address: str, model_low: Any = None
    ) -> io.NodeOutput:
        """Returns MODELs that are computed elsewhere."""
        models = [model_high] if model_low is None else [model_high, model_low]
        remote = distributed(models, mode, gpus, address.strip())
        return io.NodeOutput(*remote, *[None] * (2 - len(remote)))


NODES: list[type[io.ComfyNode]] = [WanDuetDistribute]
