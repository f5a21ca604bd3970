"""The node that saves forward passes which hardly change anything."""

from typing import Any

from comfy_api.latest import io

from ..wan_model.sampling import STEP_CACHE_METHODS, StepCacheSettings
from ._comfy.model import facts
from ._comfy.sampling.step_cache_wrappers import with_step_cache
from ._report import check_choices, reports_errors

CATEGORY = "Wan 2.2/speed"


class WanDuetStepCache(io.ComfyNode):
    """Puts a step cache on a MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return io.Schema(
            node_id="WanDuetStepCache",
            display_name="Wan step cache",
            category=CATEGORY,
            description="Skips model calls whose result follows from earlier ones, for runs of 10 "
            "steps or more. The video differs a little from the one without; this node shows what "
            "was skipped. Use one for each expert. For 4-step LoRAs it does nothing.",
            inputs=_inputs(),
            outputs=[io.Model.Output(display_name="model")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, method: str | None = None) -> bool | str:
        """Refuses an unknown choice."""
        return check_choices(_inputs(), method=method)

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
        io.Model.Input("model", tooltip="Model or expert to run less often. It is left as it is."),
        io.Combo.Input(
            "method",
            options=list(STEP_CACHE_METHODS),
            default="auto",
            tooltip="easycache and magcache skip whole steps, by two estimates of the error. cfg "
            "skips the negative prompt's half of a step where its effect hardly changes. auto: "
            "easycache, and cfg in the steps that are computed.",
        ),
        io.Float.Input(
            "threshold",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.005,
            round=1e-7,
            tooltip="Relative error that may be estimated for a step that is not computed. More "
            "skips more and changes the video more. 0: the method's own, 0.05 for easycache and "
            "cfg, 0.06 for magcache.",
        ),
        io.Float.Input(
            "start_percent",
            default=0.15,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Part of the run's steps to compute in any case at the beginning, where layout "
            "and motion are decided. The first three steps of each expert are always computed.",
        ),
        io.Float.Input(
            "end_percent",
            default=0.95,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Part of the run's steps after which everything is computed. The last step is "
            "always computed.",
        ),
    ]


NODES: list[type[io.ComfyNode]] = [WanDuetStepCache]
