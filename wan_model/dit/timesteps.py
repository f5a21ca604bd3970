"""From timesteps to the modulation of every token.

A video's tokens share very few timesteps: one (A14B), or two (5B with a first image, whose
tokens have t = 0). Only distinct ones are embedded and projected; tokens look theirs up run by
run. The official code makes a (tokens, 6, dim) fp32 tensor instead: 8.7 GiB at 720p81.

Shape legend: B batch, L tokens, U distinct timesteps, K vectors per timestep (6 for a block:
shift, scale, gate of attention, then of the FFN; 2 for the head: shift, scale).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .modulation import Modulation


@dataclass(frozen=True)
class TimestepRows:
    """K vectors for each distinct timestep, and which timestep each token has."""

    rows: Tensor
    """fp32 (U, K, dim)."""
    index: Tensor
    """int64 (B, 1) if all tokens of a sample share one timestep, else (B, L)."""

    def at(self, run: slice) -> "TimestepRows":
        """Returns the vectors of a run of tokens."""
        return self if self.index.shape[1] == 1 else TimestepRows(self.rows, self.index[:, run])

    def modulations(self, table: Tensor) -> tuple[Modulation, ...]:
        """Returns the modulation of each branch: three vectors, with a learned table (1, K, dim).

        Args:
            table: added to the vectors of every timestep.
        """
        rows = self.rows + table.to(self.rows)
        return tuple(Modulation(branch, self.index) for branch in rows.split(3, dim=1))


def distinct_timesteps(timestep: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Splits timesteps into distinct values and the index of each token's value.

    Args:
        timestep: (B,), (B, T) one per latent frame, or (B, L) one per token.
        tokens: L.

    Returns:
        Values (U,) and index int64 (B, 1) or (B, L).
    """
    if timestep.ndim == 1:
        return timestep, torch.arange(len(timestep), device=timestep.device).unsqueeze(1)
    values, index = timestep.unique(return_inverse=True)
    if len(values) == 1:
        return values, index[:, :1]
    return values, index.repeat_interleave(tokens // timestep.shape[1], dim=1)


def sinusoid(timestep: Tensor, width: int) -> Tensor:
    """Returns the sinusoidal embedding fp32 (U, width): cosines first, then sines.

    Angles are t * 10000^(-i / half) in float64 (`sinusoidal_embedding_1d` in
    `wan/modules/model.py`); Apple GPUs have no float64, so there they are made on the CPU.
    """
    half = width // 2
    device = torch.device("cpu") if timestep.device.type == "mps" else timestep.device
    t = timestep.to(device, torch.float64)
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=device) / half)
    angles = torch.outer(t, frequencies)
    return torch.cat((angles.cos(), angles.sin()), dim=1).float().to(timestep.device)
