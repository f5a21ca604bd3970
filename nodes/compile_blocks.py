"""The node that has PyTorch compile a model's blocks."""

from typing import Any

from comfy_api.latest import io

from ..wan_model.dit.compiled_stages import Mode
from ._comfy.model.compiled_model import with_compiled_stages
from ._report import reports_errors
from .checked_inputs import Model
from .search_words import search_words
from .skip_steps import CATEGORY
from .widgets import widgets


class WanDuetCompile(io.ComfyNode):
    """Has a MODEL's blocks compiled."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return io.Schema(
            node_id="WanDuetCompile",
            display_name="Wan 2.2 Torch Compile",
            **search_words("WanDuetCompile"),
            category=CATEGORY,
            description="Makes each step faster with torch.compile; the video stays the same. The "
            "first step waits for the compiler; later runs, other sizes, LoRA strengths and the "
            "second expert do not. Use one for each expert; the node shows how long it took.",
            inputs=_inputs(),
            outputs=[io.Model.Output(display_name="model")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @reports_errors
    def execute(cls, model: Any, mode: Mode) -> io.NodeOutput:
        """Returns a clone of the model."""
        return io.NodeOutput(with_compiled_stages(model, mode, cls.hidden.unique_id))


def _inputs() -> list[Any]:
    return [
        Model.Input(
            "model",
            tooltip="MODEL of 'Wan 2.2 Load Model' or 'Wan 2.2 Load 14B Experts'. It is left as it "
            "is.",
        ),
        *widgets("mode"),
    ]


NODES: list[type[io.ComfyNode]] = [WanDuetCompile]
