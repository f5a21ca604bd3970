"""The node that has a model's forward passes run on several GPUs."""

from typing import Any

from comfy_api.latest import io

from ._comfy.cluster.remote_model import distributed
from ._comfy.cluster.remote_pool import MODES
from ._report import reports_errors
from .checked_inputs import Choice, Model, Vae
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
            description="Lets several GPUs compute one video; samplers, LoRAs, previews and the "
            "cancel button work as before. Needs the package 'ray' in ComfyUI's Python.",
            inputs=[
                Model.Input(
                    "model_high",
                    tooltip="High-noise expert, or TI2V-5B, from a WanDuet loader. The input is "
                    "not changed.",
                ),
                Model.Input(
                    "model_low",
                    optional=True,
                    tooltip="Low-noise expert. Empty for TI2V-5B. The input is not changed.",
                ),
                Choice.Input(
                    "mode",
                    options=list(MODES),
                    default="auto",
                    tooltip="What the GPUs share. auto: the two passes of guidance at cfg above 1, "
                    "otherwise parts of the video. The help page explains the others.",
                ),
                io.Int.Input(
                    "gpus",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="How many GPUs. 0: all. For parts of a video, a divisor of 40 (14B) or "
                    "of 24 (5B).",
                ),
                io.String.Input(
                    "address",
                    default="",
                    tooltip="Empty: the GPUs of this computer. Otherwise a Ray cluster with the "
                    "same model files: 127.0.0.1:6379, or another address that "
                    "the environment variable WANDUET_RAY_CLUSTERS names.",
                ),
                Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="VAE from 'Wan 2.2 Load VAE'. The GPUs then share each frame's rows to "
                    "encode and decode, with the same result but for rounding. The input is not "
                    "changed.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model_high"),
                io.Model.Output(display_name="model_low"),
                io.Vae.Output(display_name="vae"),
            ],
        )

    @classmethod
    @reports_errors
    def execute(
        cls,
        model_high: Any,
        mode: str,
        gpus: int,
        address: str,
        model_low: Any = None,
        vae: Any = None,
    ) -> io.NodeOutput:
        """Returns MODELs that are computed elsewhere, and a VAE that is."""
        models = [model_high] if model_low is None else [model_high, model_low]
        remote, shared = distributed(models, mode, gpus, address.strip(), vae)
        return io.NodeOutput(*remote, *[None] * (2 - len(remote)), shared)


NODES: list[type[io.ComfyNode]] = [WanDuetDistribute]
