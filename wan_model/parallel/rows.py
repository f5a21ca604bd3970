"""Each rank decodes or encodes some rows of a video, and looks at those beyond.

A 3 x 3 convolution needs a row of either neighbour. Some rows travel at once, for as many
convolutions, which compute them again on both sides: a message takes longer than a row. The one
attention of a VAE needs keys and values of all pixels, at the lowest resolution.

Shape legend: B batch, H height of this rank's rows, W width, C channels, P pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SettingsError
from ..vae.borders import convolve_halved
from ..vae.full import FullVae
from .team import Team, shares

REACH = 8
"""Rows that travel at once: for most of a stage's seven convolutions, and a thirtieth of a
resolution at which a rank has 240."""


@dataclass(frozen=True)
class SharedRows:
    """The rows of a team's frames, top to bottom by rank: `Borders`."""

    team: Team
    latent_rows: tuple[int, ...]
    """Of each rank."""
    latent_width: int
    """Tells the resolution of a frame, as its width is whole."""

    def reach(self, x: Tensor, rows: int) -> Tensor:
        """See `Borders`."""
        if self.team.ranks == 1 or self._beyond(x) >= rows:
            return x
        return self._with_neighbours(x, self._most(x))

    def right(self, x: Tensor) -> Tensor:
        """See `Borders`."""
        return self._inner(x, 1)

    def like(self, x: Tensor, y: Tensor, scale: int = 1) -> Tensor:
        """See `Borders`."""
        has, wanted = self._beyond(x), self._beyond(y) * scale
        return self._with_neighbours(x, wanted) if has < wanted else self._inner(x, has - wanted)

    def halved(self, x: Tensor, weight: Tensor) -> Tensor:
        """See `Borders`."""
        beyond = self._beyond(x)
        # Steps begin at even rows of the whole frame.
        odd = beyond % 2 if self.team.rank else 0
        y = convolve_halved(x[:, odd:], weight)
        return y if beyond % 2 else self._inner(y, 1)

    def everywhere(self, pixels: Tensor) -> Tensor:
        """See `Borders`."""
        width = self.latent_width
        mine = self.own(pixels.unflatten(2, (-1, width)).squeeze(1)).flatten(1, 2)
        counts = [rows * width for rows in self.latent_rows]
        return self.team.gather(mine.transpose(0, 1), counts).transpose(0, 1).unsqueeze(1)

    def own(self, x: Tensor) -> Tensor:
        """Returns the rows (B, H, W, C) of this rank alone."""
        return self._inner(x, self._beyond(x))

    @property
    def _sides(self) -> tuple[bool, bool]:
        """Whether there are neighbours above and below."""
        return self.team.rank > 0, self.team.rank < self.team.ranks - 1

    def _beyond(self, x: Tensor) -> int:
        """Returns the rows of each neighbour that a frame has."""
        scale = x.shape[2] // self.latent_width
        rows = x.shape[1] - self.latent_rows[self.team.rank] * scale
        return rows // max(1, sum(self._sides))

    def _most(self, x: Tensor) -> int:
        """Returns how many rows all ranks can give at the resolution of a frame."""
        return min(REACH, min(self.latent_rows) * (x.shape[2] // self.latent_width))

    def _inner(self, x: Tensor, rows: int) -> Tensor:
        """Returns a frame without so many rows at the sides where neighbours are."""
        above, below = (rows * side for side in self._sides)
        return x[:, above : x.shape[1] - below].contiguous()

    def _with_neighbours(self, x: Tensor, rows: int) -> Tensor:
        """Returns the rows of this rank, and so many of each neighbour."""
        x, rank = self.own(x), self.team.rank
        above, below = self._sides
        counts = [0] * self.team.ranks
        parts: list[Tensor] = []
        if above:
            counts[rank - 1] = rows
            parts.append(x[:, :rows])
        if below:
            counts[rank + 1] = rows
            parts.append(x[:, -rows:])
        mine = torch.cat(parts, dim=1).transpose(0, 1).contiguous()
        found = self.team.exchange(mine, counts, counts).transpose(0, 1)
        return torch.cat([found[:, : rows * above], x, found[:, rows * above :]], dim=1)


@torch.no_grad()
def decode_rows(vae: FullVae, latent: Tensor, team: Team, *, normalized: bool = True) -> Tensor:
    """Returns the video (B, 3, T, H, W) as `vae.decode` does; each rank decodes some rows.

    Args:
        vae: the same on every rank.
        latent: (B, z, T', H', W'), the same on every rank.
        team: shares the rows.
        normalized: as of `vae.decode`.

    Raises:
        SettingsError: if there are fewer rows than ranks.
    """
    rows = _rows(latent.shape[3], team)
    part = decode_own_rows(vae, latent, team, normalized=normalized)
    return _gathered(part, rows, vae.config.spatial_stride, team)


@torch.no_grad()
def decode_own_rows(vae: FullVae, latent: Tensor, team: Team, *, normalized: bool = True) -> Tensor:
    """Returns what of the video this rank decodes, top to bottom by rank; see `decode_rows`."""
    rows = _rows(latent.shape[3], team)
    shared = SharedRows(team, rows, latent.shape[4])
    parts = vae.decode_part(latent[:, :, :, _place(rows, team)], shared, normalized=normalized)
    return torch.cat([_own(shared, part) for part in parts], dim=2)


@torch.no_grad()
def encode_rows(vae: FullVae, video: Tensor, team: Team, *, normalized: bool = True) -> Tensor:
    """Returns the latent (B, z, T', H', W') as `vae.encode` does; each rank encodes some rows.

    Args:
        vae: the same on every rank.
        video: (B, 3, T, H, W), the same on every rank.
        team: shares the rows.
        normalized: as of `vae.encode`.

    Raises:
        SettingsError: if there are fewer rows of the latent than ranks.
    """
    stride = vae.config.spatial_stride
    rows = _rows(video.shape[3] // stride, team)
    place = _place(rows, team)
    mine = video[:, :, :, place.start * stride : place.stop * stride]
    shared = SharedRows(team, rows, video.shape[4] // stride)
    parts = vae.encode_part(mine, shared, normalized=normalized)
    return _gathered(torch.cat([_own(shared, part) for part in parts], dim=2), rows, 1, team)


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


def _own(shared: SharedRows, video: Tensor) -> Tensor:
    """Returns the rows (dimension 3) of this rank of a part (B, C, T, H, W) of a video."""
    frames = video.permute(0, 2, 3, 4, 1).flatten(0, 1)
    return shared.own(frames).unflatten(0, (len(video), -1)).permute(0, 4, 1, 2, 3)


def _gathered(part: Tensor, rows: tuple[int, ...], scale: int, team: Team) -> Tensor:
    """Returns the rows (dimension 3) of all ranks."""
    whole = team.gather(part.movedim(3, 0), [count * scale for count in rows])
    return whole.movedim(0, 3)
