"""Nodes that load what a transformer needs beside it: the VAE and the text encoder."""

from typing import Any

from comfy_api.latest import io

from ..wan_model.loading import open_checkpoint
from ._comfy.host import runtime
from ._comfy.text import umt5
from ._comfy.vae import comfy_vae
from ._report import reports_errors
from .checked_inputs import Choice
from .loaders import CATEGORY, PRECISIONS
from .model_files import missing_file
from .search_words import search_words


class WanDuetVAELoader(io.ComfyNode):
    """Loads a Wan 2.1 or Wan 2.2 VAE, full or for previews."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return io.Schema(
            node_id="WanDuetVAELoader",
            display_name="Wan 2.2 Load VAE",
            **search_words("WanDuetVAELoader"),
            category=CATEGORY,
            description=(
                "Loads the VAE. 14B needs wan_2.1_vae, 5B needs wan2.2_vae: the names are easily "
                "confused."
            ),
            inputs=[
                Choice.Input(
                    "vae_name",
                    options=[*runtime.model_names("vae"), *cls._preview_names()],
                    tooltip=(
                        "wan_2.1_vae for 14B, wan2.2_vae for 5B. The tiny taew2_1 (14B) and "
                        "taew2_2 (5B) decode a rough video in a fraction of the time."
                    ),
                ),
                Choice.Input(
                    "precision",
                    options=PRECISIONS,
                    default="auto",
                    tooltip=(
                        "Number format of the VAE's maths. auto suits your GPU. fp32 is exact and "
                        "takes twice the memory."
                    ),
                ),
            ],
            outputs=[io.Vae.Output(display_name="vae")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, vae_name: str | None = None) -> bool | str:
        """Refuses a file that cannot be had; see `WanDuetExpertLoader.validate_inputs`."""
        return missing_file(cls._folder(vae_name), vae_name) or True

    @classmethod
    def fingerprint_inputs(cls, vae_name: str | None = None, **_: Any) -> str:
        """Has a file that was written again be loaded again."""
        return runtime.file_stamp(cls._folder(vae_name), vae_name)

    @classmethod
    @reports_errors
    def execute(cls, vae_name: str, precision: str) -> io.NodeOutput:
        """Loads the file."""
        checkpoint = open_checkpoint(runtime.model_path(cls._folder(vae_name), vae_name), "vae")
        loaded = comfy_vae.load_comfy_vae(checkpoint, precision)
        runtime.show(cls.hidden.unique_id, checkpoint.info.label)
        return io.NodeOutput(loaded)

    @classmethod
    def _preview_names(cls) -> list[str]:
        """Preview VAEs of Wan where ComfyUI keeps those of its live previews, and nowhere else."""
        found = [name for name in runtime.model_names("vae_approx") if "taew" in name.lower()]
        return [name for name in found if name not in runtime.model_names("vae")]

    @classmethod
    def _folder(cls, name: str | None) -> str:
        return "vae_approx" if name in cls._preview_names() else "vae"


class WanDuetTextEncoderLoader(io.ComfyNode):
    """Loads the umT5 text encoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return io.Schema(
            node_id="WanDuetTextEncoderLoader",
            display_name="Wan 2.2 Load Text Encoder",
            **search_words("WanDuetTextEncoderLoader"),
            category=CATEGORY,
            description="Loads the umT5 text encoder, as a CLIP that every node takes.",
            inputs=[
                Choice.Input(
                    "text_encoder_name",
                    options=runtime.model_names("text_encoders"),
                    tooltip=(
                        "umT5 file: umt5_xxl_fp8_e4m3fn_scaled, umt5_xxl_fp16 (larger, more "
                        "exact), or a .gguf."
                    ),
                ),
            ],
            outputs=[io.Clip.Output(display_name="clip")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, text_encoder_name: str | None = None) -> bool | str:
        """Refuses a file that cannot be had; see `WanDuetExpertLoader.validate_inputs`."""
        return missing_file("text_encoders", text_encoder_name) or True

    @classmethod
    def fingerprint_inputs(cls, text_encoder_name: str | None = None) -> str:
        """Has a file that was written again be loaded again."""
        return runtime.file_stamp("text_encoders", text_encoder_name)

    @classmethod
    @reports_errors
    def execute(cls, text_encoder_name: str) -> io.NodeOutput:
        """Loads the file."""
        folder = "text_encoders"
        checkpoint = open_checkpoint(runtime.model_path(folder, text_encoder_name), "text_encoder")
        clip = umt5.load_clip(checkpoint)
        runtime.show(cls.hidden.unique_id, checkpoint.info.label)
        return io.NodeOutput(clip)


NODES: list[type[io.ComfyNode]] = [WanDuetVAELoader, WanDuetTextEncoderLoader]
