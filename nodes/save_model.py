"""The node that writes a MODEL with its LoRAs to a file."""

from typing import Any

from comfy_api.latest import io

from ..wan_model.writing.export import EXPORTS
from ._comfy.host import runtime
from ._comfy.model.exporting import export_model
from ._report import reports_errors
from .checked_inputs import Choice, Model
from .loaders import CATEGORY
from .search_words import search_words

GIB = 1 << 30


class WanDuetSaveModel(io.ComfyNode):
    """Writes a transformer with its LoRAs in a format of one's choice."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return io.Schema(
            node_id="WanDuetSaveModel",
            display_name="Wan 2.2 Save Model",
            **search_words("WanDuetSaveModel"),
            category=CATEGORY,
            description=(
                "Writes a model with all its LoRAs to one file. Files are never overwritten. Save "
                "each 14B expert on its own."
            ),
            inputs=_inputs(),
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @reports_errors
    def execute(cls, model: Any, filename_prefix: str, format: str) -> io.NodeOutput:
        """Writes the file, and shows where it is."""
        file, remark = export_model(model, filename_prefix, format)
        size = file.stat().st_size / GIB
        text = f"Saved {file.name} ({size:.2f} GiB) in {file.parent}"
        runtime.show(cls.hidden.unique_id, f"{text}\n{remark}" if remark else text)
        return io.NodeOutput()


def _inputs() -> list[Any]:
    return [
        Model.Input(
            "model",
            tooltip=(
                "Model from a WanDuet loader, with any LoRAs. Sampler settings such as a shift "
                "are not saved."
            ),
        ),
        io.String.Input(
            "filename_prefix",
            default="diffusion_models/wan2.2",
            tooltip=(
                "Name in ComfyUI's output folder. Files in output/diffusion_models appear in the "
                "loaders at once."
            ),
        ),
        Choice.Input(
            "format",
            options=[one.name for one in EXPORTS],
            default="bf16",
            tooltip=(
                "Number format of the file. bf16 gives the most faithful picture; fp8 and int8 "
                "take half the space; int8 convrot is the most faithful at 8 bits; GGUF is for "
                "ComfyUI-GGUF and WanDuet."
            ),
        ),
    ]


NODES: list[type[io.ComfyNode]] = [WanDuetSaveModel]
