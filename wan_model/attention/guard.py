"""Notices values that are not finite, before they become a black video."""

from torch import Tensor


class FiniteGuard:
    """Remembers on the device whether all that it saw was finite.

    Watching queues two small kernels and does not wait. Asking waits for the device, once:
    8 bit attention that overflows does so at once, so the first step of each expert tells.
    """

    def __init__(self) -> None:
        self._finite: Tensor | None = None

    def watch(self, x: Tensor) -> None:
        """Looks at a tensor, such as the velocity of a step."""
        finite = x.isfinite().all()
        self._finite = finite if self._finite is None else self._finite & finite

    def is_finite(self) -> bool:
        """Whether everything since the last question was finite; forgets it then."""
        finite, self._finite = self._finite, None
        return finite is None or bool(finite)


def fallback_message(backend: str, where: str) -> str:
    """Returns what to tell people when a run goes on with sdpa.

    Args:
        backend: name of the attention backend that failed.
        where: such as "the high-noise expert".
    """
    return (
        f"Attention gave values that are not finite. Got them from {backend!r} in {where}, need "
        "finite ones. The step is repeated and the run goes on with 'sdpa'; choose 'auto' to have "
        "it from the start."
    )
