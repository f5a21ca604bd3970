"""Inputs whose values ComfyUI checks itself: a wrong one is one error, at its own input.

What `validate_inputs` refuses, ComfyUI repeats at every input that this function reads, so our
nodes say in their schemas what is valid. A type here has the `Input` that ComfyUI's own have.
"""

from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from ..wan_model.errors import ShapeError
from ._comfy.host.runtime import CHECKS_COMBOS


class Choice:
    """A choice of a list."""

    class Input(io.Combo.Input):
        """As `io.Combo.Input`, and checked by older versions, too, which pass over its type."""

        def get_io_type(self) -> Any:
            """Returns "COMBO"; to versions that do not check that, the list itself."""
            return super().get_io_type() if CHECKS_COMBOS else _Choices(self.options)


class _Choices(list[str]):
    """The older name of a choice's type, that takes links from other choices as "COMBO" does."""

    def __ne__(self, other: object) -> bool:
        return not (isinstance(other, list) or other in ("COMBO", "*"))

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return id(self)


class Least(float):
    """The least value of a number, as `min` of an input: NaN, which no limit stops, is below it."""

    def __gt__(self, value: float) -> bool:
        return not value >= float(self)


class _Link(int):
    """What no value is as large as, as `min` of an input that only nodes give.

    ComfyUI passes on whatever an API prompt has in the place of a link. Floats and booleans compare
    themselves with the number that this is, all else asks it.
    """

    _optional = False

    @classmethod
    def of(cls, *, optional: bool) -> "_Link":
        """Makes the limit; of optional inputs, None passes."""
        self = cls(10**308)
        self._optional = optional
        return self

    def __gt__(self, value: object) -> bool:
        return not (self._optional and value is None)

    def __format__(self, spec: str) -> str:
        return "a link: connect a node that gives it"


def linked(kind: Any) -> Any:
    """Returns an input type of ComfyUI of which a value in the place of a link is refused."""

    class Linked:
        class Input(kind.Input):
            def as_dict(self) -> dict[str, Any]:
                return super().as_dict() | {"min": _Link.of(optional=bool(self.optional))}

    return Linked


Model, Clip, Vae, Latent, Image, Conditioning, OneOf = map(
    linked, (io.Model, io.Clip, io.Vae, io.Latent, io.Image, io.Conditioning, io.MultiType)
)


class Steps(int):
    """The least value of a number whose valid values have gaps, as `min` of an input.

    ComfyUI compares values with it and puts it into "Value {} smaller than min of {}". To all
    others, such as the graph editor, it is the number.
    """

    _check: Callable[[int], None]
    _rule: str
    _advice = ""

    def __new__(cls, least: int, check: Callable[[int], None], rule: str) -> "Steps":
        """Makes the limit.

        Args:
            least: the least valid value.
            check: raises ShapeError at any that is not valid; its last sentence is the advice.
            rule: what values between are not, such as "4n+1".
        """
        self = super().__new__(cls, least)
        self._check, self._rule = check, rule
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return int(self), self._check, self._rule

    def __gt__(self, value: int) -> bool:
        try:
            self._check(value)
        except ShapeError as error:
            self._advice = str(error).rsplit(". ", 1)[-1]
            return True
        return False

    def __format__(self, spec: str) -> str:
        return f"{int(self)}, or not {self._rule}. {self._advice}"
