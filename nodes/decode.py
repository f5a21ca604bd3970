"""The node that decodes latents to frames."""

from typing import Any

from comfy_api.latest import io

from ._comfy.model import facts
from ._comfy.vae.comfy_vae import decode
from ._report import reports_errors
from .checked_inputs import Latent, Vae
from .search_words import search_words
from .widgets import widgets


class WanDuetVAEDecode(io.ComfyNode):
    """Decodes a video frame by frame into host memory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return io.Schema(
            node_id="WanDuetVAEDecode",
            display_name="Wan 2.2 VAE Decode",
            **search_words("WanDuetVAEDecode"),
            category="Wan 2.2",
            description=(
                "Turns a latent into frames, exactly and with little memory. Tiles are used only "
                "when a whole frame does not fit the GPU."
            ),
            inputs=[
                Vae.Input(
                    "vae", tooltip="The model's VAE: wan_2.1_vae for 14B, wan2.2_vae for 5B."
                ),
                Latent.Input(
                    "samples", tooltip="Latent video from a sampler, made with the same VAE."
                ),
                *widgets("tiling"),
            ],
            outputs=[io.Image.Output(display_name="images")],
        )

    @classmethod
    @reports_errors
    def execute(cls, vae: Any, samples: dict[str, Any], tiling: str) -> io.NodeOutput:
        """Decodes."""
        facts.check_vae(vae, samples["samples"])
        return io.NodeOutput(decode(vae, samples["samples"], tiling))


NODES: list[type[io.ComfyNode]] = [WanDuetVAEDecode]
