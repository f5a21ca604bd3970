"""A LoRA file in the names and sizes of one model, and what became of each of its tensors."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ..errors import CheckpointError
from ..loading import Expert
from .changes import Change
from .dialects import Names, expert_of, why_absent
from .file import LoraFile, LoraModule, not_a_lora
from .kinds import bias_changes, weight_changes

Shapes = Mapping[str, tuple[int, ...]]
"""Of a model's weights, before they were quantized, by official name."""


@dataclass(frozen=True, kw_only=True)
class Translated:
    """What a file does to a model."""

    changes: dict[str, list[Change]] = field(default_factory=dict)
    """By the official name of the tensor that is changed."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Modules that the model lacks by design, counted by reason."""
    unmatched: list[str] = field(default_factory=list)
    """Names in the file that the model has nothing for."""
    misfits: list[str] = field(default_factory=list)
    """Names in the file whose tensors have another size."""


class LoraModules:
    """The changes of a file, made once, so that they are the same objects for every strength."""

    def __init__(self, file: LoraFile) -> None:
        """Takes an open file."""
        self.file = file

    @cached_property
    def _changes(self) -> dict[str, tuple[list[Change], list[Change]]]:
        """Of the weight and of the bias, by the module's name in the file."""
        return {
            module.name: (weight_changes(module), bias_changes(module))
            for module in self.file.modules
        }

    def translate(self, shapes: Shapes, expert: Expert | None) -> Translated:
        """Finds what a model has for each module of the file.

        Args:
            shapes: of the model's weights.
            expert: which of both the model is, if it is one of two.

        Raises:
            CheckpointError: if the file is damaged, or has nothing for this model.
        """
        result = self.found(shapes, expert)
        if not result.changes:
            raise self._useless(result)
        result.unmatched.extend(self.file.unknown)
        return result

    def found(self, shapes: Shapes, expert: Expert | None) -> Translated:
        """Finds the same, also if that is nothing; see `translate`.

        Raises:
            CheckpointError: if the file is damaged.
        """
        names, result = Names(shapes), Translated()
        for module in self.file.modules:
            belongs, name = expert_of(module.name)
            if self.file.of_both_experts and expert is not None and (belongs or "high") != expert:
                continue
            self._place(module, name, names, shapes, result)
        return result

    def _place(
        self, module: LoraModule, name: str, names: Names, shapes: Shapes, result: Translated
    ) -> None:
        if "diff_m" in module:
            name += ("." if "." in name else "_") + "modulation"
        official = names.official(name)
        if official is None:
            why = why_absent(name)
            if why is None:
                result.unmatched.append(module.name)
            else:
                result.skipped[why] += 1
            return
        weights, biases = self._changes[module.name]
        of_weight = official if official in shapes else f"{official}.weight"
        placed = False
        for tensor, changes in ((of_weight, weights), (f"{official}.bias", biases)):
            for change in changes:
                placed = True
                if tensor not in shapes:
                    result.unmatched.append(f"{module.name} (bias)")
                elif not change.fits(shapes[tensor]):
                    result.misfits.append(module.name)
                else:
                    result.changes.setdefault(tensor, []).append(change)
        if not placed:
            result.unmatched.append(module.name)

    def _useless(self, result: Translated) -> CheckpointError:
        path = self.file.path
        if result.misfits:
            return CheckpointError(
                f"{path.name} is for a model of another size. Got tensors of "
                f"{len(result.misfits)} weights that do not fit, need a LoRA for this one: A14B "
                "and 5B each have their own. Choose another file."
            )
        keys = [raw.name for module in self.file.modules for raw in module.tensors.values()]
        return not_a_lora(path, keys)
