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
            description=(
                "Compiles the model with torch.compile: the first step waits, the video stays the "
                "same. For GPUs on which WanDuet's own kernels do not run."
            ),
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
            tooltip="Model from a WanDuet loader. The input is not changed.",
        ),
        *widgets("mode"),
    ]


NODES: list[type[io.ComfyNode]] = [WanDuetCompile]
