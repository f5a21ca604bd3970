"""Over how many ranks what is split, and which numbers fit a model."""

from dataclasses import dataclass

from ..errors import SettingsError


@dataclass(frozen=True)
class Degrees:
    """How the ranks of a forward pass share its work; their product is the number of ranks."""

    cfg: int = 1
    """Parts of the samples: with and without the prompt, on ranks of their own."""
    ulysses: int = 1
    """Parts of the tokens."""

    @property
    def ranks(self) -> int:
        """Ranks that these take."""
        return self.cfg * self.ulysses


def fitting_ranks(heads: int, tokens: int) -> list[int]:
    """Returns all numbers of ranks that the tokens of a video can be split over.

    Args:
        heads: of the model, 40 (A14B) or 24 (5B): attention is split by them.
        tokens: of the video; each rank needs one.
    """
    return [ranks for ranks in range(1, heads + 1) if heads % ranks == 0 and ranks <= tokens]


def check_ulysses(heads: int, tokens: int, ranks: int) -> None:
    """Refuses a number of ranks that heads or tokens cannot be split over.

    Raises:
        SettingsError: lists the numbers that fit.
    """
    fitting = fitting_ranks(heads, tokens)
    if ranks in fitting:
        return
    what = f"{heads} heads" if heads % ranks else f"{tokens} tokens"
    raise SettingsError(
        f"The video cannot be split over this many GPUs. Got {ranks} for {what}, need one of "
        f"{', '.join(map(str, fitting))}. Use so many, or split with and without the prompt as "
        "well: half the GPUs each."
    )
