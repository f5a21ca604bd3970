"""The node that writes a MODEL with its LoRAs to a file."""

from typing import Any

from comfy_api.latest import io

from ..wan_model.loading.export import EXPORTS
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
            description="Writes a MODEL of this pack with all its LoRAs as one file, which "
            "ComfyUI's own loader or ComfyUI-GGUF reads, too. A file is never written over, and is "
            "there only when it is whole. Save each expert of A14B on its own.",
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
            tooltip="A MODEL of 'Wan 2.2 Load Model' or 'Wan 2.2 Load 14B Experts', with LoRAs of "
            "any loader behind it. What samplers add, such as a shift, is no part of the file.",
        ),
        io.String.Input(
            "filename_prefix",
            default="diffusion_models/wan2.2",
            tooltip="Name in ComfyUI's output folder, to which expert, format and a number are "
            "added. Files in output/diffusion_models are listed by the loaders.",
        ),
        Choice.Input(
            "format",
            options=[one.name for one in EXPORTS],
            default="bf16",
            tooltip="Format of the blocks' weights; LoRAs are merged in fp32 before rounding. "
            "bf16: 28 GB for an expert of A14B. fp8: half of that, with one scale for each weight, "
            "which older ComfyUIs read, too. int8: a scale for each row, usually closer than fp8. "
            "int8 convrot: weights are rotated first, the closest in 8 bits. To read int8 with "
            "another loader, you need a ComfyUI of 2026. GGUF Q8_0 "
            "(15 GB) and Q4_0 (8 GB): .gguf files for ComfyUI-GGUF and this pack.",
        ),
    ]


NODES: list[type[io.ComfyNode]] = [WanDuetSaveModel]
