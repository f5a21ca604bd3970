"""Low-precision attention that gives way to sdpa where a model computes NaN or infinity with it.

8-bit kernels can overflow on keys or values that 16-bit ones survive, and NaN gives a black video.
Looking waits for the device, so only the first passes of a run are looked at.
"""

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

from torch import Tensor

from .auto import DEFAULT
from .backend import AttentionFn
from .registry import Selected
from .sdpa import sdpa
from .sol import SparseSchedule


class Guarded:
    """An attention function, of one model. What it falls back to stays until `try_again`."""

    def __init__(self, name: str, attend: AttentionFn) -> None:
        """Takes the function that is used as long as nothing is wrong.

        Args:
            name: of the backend, for people.
            attend: the function.
        """
        self._name = name
        self._chosen = self._attend = attend
        self._told = False
        self._patches: Hashable = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, /) -> Tensor:
        """Returns softmax(q k^T / sqrt(D)) v."""
        return self._attend(q, k, v)

    def try_again(self, patches: Hashable) -> None:
        """Takes the chosen function again if the model's patches are others than the last time.

        A LoRA may have been at fault.

        Args:
            patches: what they are known by.
        """
        if patches != self._patches:
            self._patches, self._attend, self._told = patches, self._chosen, False

    def check(self, predict: Callable[[], Tensor], report: Callable[[str], None]) -> Tensor:
        """Runs a forward pass and looks at its result; once more with sdpa if it is not finite.

        If sdpa gives nothing better, attention is not at fault and stays as it is.

        Args:
            predict: runs the model that this is the attention of.
            report: gets a line for people if there is one.
        """
        result = predict()
        if self._attend is sdpa or result.isfinite().all():
            return result
        suspect, self._attend = self._attend, sdpa
        result = predict()
        if result.isfinite().all():
            report(f"{self._name} gave values that are not finite; sdpa is used instead.")
            return result
        self._attend = suspect
        if not self._told:
            self._told = True
            report(
                f"{self._name} gave values that are not finite, and so does sdpa: the model, a "
                "LoRA or what goes in is at fault."
            )
        return result


class FirstPasses:
    """Tells the first passes of a run of one model, one of each kind."""

    def __init__(self) -> None:
        self._run: Any = None
        self._kinds: set[Hashable] = set()

    def include(self, run: Any, kind: Hashable) -> bool:
        """Says whether a pass is one of them; to be asked once for each pass.

        Args:
            run: an object that belongs to this run alone; it is kept until the next one. None, if
                there is none, makes every pass a first one.
            kind: such as with or without the prompt.
        """
        if run is None:
            return True
        if self._run is not run:
            self._run, self._kinds = run, set()
        is_first = kind not in self._kinds
        self._kinds.add(kind)
        return is_first


def guarded(attend: AttentionFn) -> AttentionFn:
    """Returns a guarded function for one of low precision, others as they are.

    Of a sparse schedule, the sparse part is guarded.
    """
    if isinstance(attend, SparseSchedule):
        return replace(attend, sparse=guarded(attend.sparse))
    if isinstance(attend, Selected) and attend.backend.constraints.low_precision:
        return Guarded(attend.backend.name, attend)
    return attend


def try_again(attend: AttentionFn, patches: Hashable) -> None:
    """Has guarded attention begin anew where patches are others, see `Guarded.try_again`."""
    if isinstance(attend, SparseSchedule):
        attend = attend.sparse
    if isinstance(attend, Guarded):
        attend.try_again(patches)


def name_of(attend: AttentionFn) -> str:
    """Returns the backend that computes most of a forward pass; of a sparse schedule, the dense."""
    if isinstance(attend, Guarded):
        attend = attend._attend
    if isinstance(attend, SparseSchedule):
        return name_of(attend.dense)
    return attend.backend.name if isinstance(attend, Selected) else DEFAULT


def copies_of(attend: AttentionFn) -> float:
    """Returns how many tensors as large as q, in 16 bit, attention keeps beside q, k and v."""
    if isinstance(attend, Guarded):
        attend = attend._attend
    if isinstance(attend, SparseSchedule):
        return max(copies_of(attend.sparse), copies_of(attend.dense))
    return attend.backend.copies if isinstance(attend, Selected) else 0.0
