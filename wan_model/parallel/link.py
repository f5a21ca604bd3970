"""How fast the connection between ranks is, and whether sharing tokens over it is worth it."""

import time
from dataclasses import dataclass

import torch

from ..config import DiTConfig
from .team import Team

EXCHANGES = 4
"""Of a block: q, k, v and what they attend to."""

TRIAL_BYTES = 32 << 20
"""That a rank sends for a measurement: as much as a part of q of a short video."""

REPEATS = 3


@dataclass(frozen=True)
class Sharing:
    """What is known before the tokens of a video are shared."""

    alone_seconds: float
    """Of a pass on one rank."""
    sent_bytes: int
    """By each rank in a pass."""
    rate: float
    """Bytes that a rank sends in a second."""
    ranks: int

    @property
    def gain(self) -> float:
        """How many times as fast the ranks together are; some of the bytes travel meanwhile."""
        together = self.alone_seconds / self.ranks + self.sent_bytes / self.rate
        return self.alone_seconds / together


def exchanged_bytes(config: DiTConfig, tokens: int, ranks: int, itemsize: int = 2) -> int:
    """Returns what a rank sends in a forward pass of one sample; it gets as much.

    Args:
        config: of the model.
        tokens: of the video.
        ranks: that share them.
        itemsize: bytes of a number that blocks compute in.
    """
    mine = -(-tokens // ranks) * config.dim * itemsize
    return EXCHANGES * config.num_layers * mine * (ranks - 1) // ranks


def measure_link(team: Team, device: torch.device) -> float:
    """Returns the bytes that a rank sends to the others in a second, while all of them do."""
    rows = team.ranks
    part = TRIAL_BYTES // rows
    x = torch.zeros((rows, part), dtype=torch.uint8, device=device)
    counts = [1] * rows
    best = float("inf")
    for _ in range(1 + REPEATS):  # the first one connects them
        _finish(device)
        start = time.perf_counter()
        team.exchange(x, counts, counts)
        _finish(device)
        best = min(best, time.perf_counter() - start)
    return part * (rows - 1) / best


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
