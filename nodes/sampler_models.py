"""The MODELs of a sampler or guider: what they are made for, and who runs which step."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..wan_model.presets import Distilled, Models, Settings
from . import few_steps
from ._comfy.model import facts
from ._comfy.sampling.guider import Expert, MoEGuider, Start, check_windows
from ._comfy.sampling.run_shift import at_shift
from .checked_inputs import Model


def start_socket() -> Any:
    """Returns the input for the model of the first steps, which is appended to the others."""
    return Model.Input(
        "model_start",
        optional=True,
        tooltip="Model for the first steps, such as the high-noise expert before its LoRA for few "
        "steps, which makes motion slow. Empty: the preset decides, and takes that LoRA off.",
    )


@dataclass(frozen=True)
class SamplerModels:
    """The MODELs of a sampler or guider, and the workflow that they come from."""

    high: Any
    low: Any
    start: Any
    prompt: Mapping[str, Any] | None
    node_id: str | None

    def as_choice(self, high: facts.ModelFacts) -> Models:
        """Returns what settings follow from."""
        low = None if self.low is None else self._distilled(self.low, "model_low")
        has_start = self.start is not None
        return Models(kind=high.kind, high=self._of_high, low=low, has_start=has_start)

    def said(self, start_steps: int) -> list[str]:
        """Returns what is to be said of LoRAs that do not count, and of the first steps."""
        names = ("model_high",) if self.low is None else ("model_high", "model_low")
        said = few_steps.of_foreign(self.prompt, self.node_id, *names)
        if start_steps > 0:
            said.append(few_steps.of_start(self.start is not None, self._of_high))
        elif self.start is not None:
            said.append("model_start has no step in this run.")
        return said

    def guider(self, chosen: Settings, start_steps: int, heading: str = "") -> MoEGuider:
        """Returns what routes each model call.

        Raises:
            SettingsError: if the first steps need a model that there is not.
        """
        two = self.low is not None
        high = Expert(at_shift(self.high, chosen.shift), chosen.cfg_high, "high" if two else "only")
        low = Expert(at_shift(self.low, chosen.shift), chosen.cfg_low, "low") if two else None
        start = None
        if start_steps > 0:
            model = self.start
            if model is None:
                model = few_steps.without_loras(self.high, self.prompt, self.node_id, "model_high")
            check_windows(self.high, model)
            first = Expert(at_shift(model, chosen.shift), chosen.cfg_start, "start")
            start = Start(first, start_steps)
        return MoEGuider(high, low, chosen.boundary, heading, start)

    @cached_property
    def _of_high(self) -> list[Distilled]:
        return self._distilled(self.high, "model_high")

    def _distilled(self, patcher: Any, name: str) -> list[Distilled]:
        return few_steps.of_input(patcher, self.prompt, self.node_id, name)
