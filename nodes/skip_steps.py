"""The node that saves forward passes which hardly change anything."""

from typing import Any

from comfy_api.latest import io

from ..wan_model.sampling import StepCacheSettings
from ._comfy.model import facts
from ._comfy.sampling.step_cache_wrappers import with_step_cache
from ._report import reports_errors
from .checked_inputs import Model
from .search_words import search_words
from .widgets import widgets

CATEGORY = "Wan 2.2/speed"


class WanDuetStepCache(io.ComfyNode):
    """Puts a step cache on a MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return io.Schema(
            node_id="WanDuetStepCache",
            display_name="Wan 2.2 Step Cache",
            **search_words("WanDuetStepCache"),
            category=CATEGORY,
            description=(
                "Skips steps that hardly change anything, in runs of 10 steps or more, and lists "
                "them. Use one node for each expert."
            ),
            inputs=_inputs(),
            outputs=[io.Model.Output(display_name="model")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @reports_errors
    def execute(
        cls, model: Any, method: str, threshold: float, start_percent: float, end_percent: float
    ) -> io.NodeOutput:
        """Returns a clone of the model."""
        settings = StepCacheSettings(
            method=method, threshold=threshold, start=start_percent, end=end_percent
        )
        label = facts.model_facts(model).label
        return io.NodeOutput(with_step_cache(model, settings, label, cls.hidden.unique_id))


def _inputs() -> list[Any]:
    return [
        Model.Input(
            "model", tooltip="Model or expert to run less often. The input is not changed."
        ),
        *widgets("method", "threshold", "start_percent", "end_percent"),
    ]


NODES: list[type[io.ComfyNode]] = [WanDuetStepCache]
