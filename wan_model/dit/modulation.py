"""How a timestep changes a branch of a block: shift and scale of its norm, gate of its result.

Shape legend: B batch, L tokens, U distinct timesteps, K vectors, C hidden width.
"""

from dataclasses import dataclass

from torch import Tensor

SHIFT, SCALE, GATE = range(3)


@dataclass(frozen=True)
class Modulation:
    """Shift, scale and gate of one branch for every token.

    Each is looked up when it is asked for: (B, 1, C), or (B, L, C) if tokens have timesteps of
    their own.
    """

    rows: Tensor
    """fp32 (U, 3, C), or (U, 2, C) without a gate."""
    index: Tensor
    """int64 (B, 1) if all tokens of a sample share one timestep, else (B, L)."""

    @property
    def shift(self) -> Tensor:
        """What is added to the norm."""
        return self.rows[:, SHIFT][self.index]

    @property
    def scale(self) -> Tensor:
        """What the norm is multiplied by, less 1."""
        return self.rows[:, SCALE][self.index]

    @property
    def gate(self) -> Tensor:
        """What the branch is multiplied by."""
        return self.rows[:, GATE][self.index]

    def at(self, run: slice) -> "Modulation":
        """Returns the modulation of a run of tokens."""
        return self if self.index.shape[1] == 1 else Modulation(self.rows, self.index[:, run])


def modulate(x: Tensor, modulation: Modulation) -> Tensor:
    """Returns x * (1 + scale) + shift for normed tokens x (B, L, C)."""
    return x * (1 + modulation.scale) + modulation.shift
