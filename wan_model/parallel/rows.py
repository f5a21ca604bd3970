"""Each rank decodes or encodes some rows of a video, and looks at those beyond.

Convolutions need one row of either neighbour, which travels before each of them; the one attention
of a VAE needs keys and values of all pixels, at the lowest resolution.

Shape legend: B batch, H height of this rank's rows, W width, C channels, P pixels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SettingsError
from ..vae.borders import convolve
from ..vae.full import FullVae
from .team import Team, shares


@dataclass(frozen=True)
class SharedRows:
    """The rows of a team's frames, top to bottom by rank: `Borders`."""

    team: Team
    latent_rows: tuple[int, ...]
    """Of each rank."""

    def around(self, x: Tensor, weight: Tensor) -> Tensor:
        """See `Borders`."""
        return convolve(self._with_neighbours(x, above=True), weight, padding=(0, 1))

    def halved(self, x: Tensor, weight: Tensor) -> Tensor:
        """See `Borders`."""
        below = self._with_neighbours(x, above=False)
        return convolve(F.pad(below, (0, 0, 0, 1)), weight, stride=2)

    def everywhere(self, pixels: Tensor) -> Tensor:
        """See `Borders`."""
        width = pixels.shape[2] // self.latent_rows[self.team.rank]
        counts = [rows * width for rows in self.latent_rows]
        return self.team.gather(pixels.movedim(2, 0), counts).movedim(0, 2)

    def _with_neighbours(self, x: Tensor, *, above: bool) -> Tensor:
        """Returns x with a row below, and above if it is wanted: of neighbours, or zeros."""
        rank, last = self.team.rank, self.team.ranks - 1
        sent, received = [0] * self.team.ranks, [0] * self.team.ranks
        rows: list[Tensor] = []
        if rank > 0:
            sent[rank - 1] = 1
            rows.append(x[:, 0])
            received[rank - 1] = int(above)
        if rank < last:
            received[rank + 1] = 1
            if above:
                sent[rank + 1] = 1
                rows.append(x[:, -1])
        mine = torch.stack(rows) if rows else x.new_empty((0, *x[:, 0].shape))
        found = list(self.team.exchange(mine, sent, received))
        zeros = torch.zeros_like(x[:, 0])
        top = found.pop(0) if rank > 0 and above else zeros
        bottom = found.pop(0) if rank < last else zeros
        parts = [top.unsqueeze(1)] if above else []
        return torch.cat([*parts, x, bottom.unsqueeze(1)], dim=1)


@torch.no_grad()
def decode_rows(vae: FullVae, latent: Tensor, team: Team) -> Tensor:
    """Returns the video (B, 3, T, H, W) as `vae.decode` does; each rank decodes some rows.

    Args:
        vae: the same on every rank.
        latent: (B, z, T', H', W'), the same on every rank, normalised.
        team: shares the rows.

    Raises:
        SettingsError: if there are fewer rows than ranks.
    """
    rows = _rows(latent.shape[3], team)
    mine = latent[:, :, :, _place(rows, team)]
    chunks = vae.decode_part(mine, SharedRows(team, rows))
    return _gathered(torch.cat(list(chunks), dim=2), rows, vae.config.spatial_stride, team)


@torch.no_grad()
def encode_rows(vae: FullVae, video: Tensor, team: Team) -> Tensor:
    """Returns the latent (B, z, T', H', W') as `vae.encode` does; each rank encodes some rows.

    Args:
        vae: the same on every rank.
        video: (B, 3, T, H, W), the same on every rank.
        team: shares the rows.

    Raises:
        SettingsError: if there are fewer rows of the latent than ranks.
    """
    stride = vae.config.spatial_stride
    rows = _rows(video.shape[3] // stride, team)
    place = _place(rows, team)
    mine = video[:, :, :, place.start * stride : place.stop * stride]
    chunks = vae.encode_part(mine, SharedRows(team, rows))
    return _gathered(torch.cat(list(chunks), dim=2), rows, 1, team)


def _rows(height: int, team: Team) -> tuple[int, ...]:
    if height < team.ranks:
        raise SettingsError(
            f"A frame is too low to be split over so many GPUs. Got {team.ranks} for {height} rows "
            f"of the latent, need {height} at most. Use fewer."
        )
    return shares(height, team.ranks)


def _place(rows: tuple[int, ...], team: Team) -> slice:
    start = sum(rows[: team.rank])
    return slice(start, start + rows[team.rank])


def _gathered(part: Tensor, rows: tuple[int, ...], scale: int, team: Team) -> Tensor:
    """Returns the rows (dimension 3) of all ranks."""
    whole = team.gather(part.movedim(3, 0), [count * scale for count in rows])
    return whole.movedim(0, 3)
