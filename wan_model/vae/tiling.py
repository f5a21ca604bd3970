"""Spatial tiles, for images that do not fit the memory as a whole.

Each tile is streamed over all frames with a cache of its own. Tiles overlap and are blended
linearly; the result is close to the untiled one but not equal, since the VAE's attention sees a
whole frame and its convolutions see far beyond a tile's edge.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..errors import SettingsError


@dataclass(frozen=True)
class Tiling:
    """Tiles of at most `tile_px` pixels per side, neighbours sharing at least `overlap_px`.

    Both are rounded to whole latent pixels of the VAE.

    Raises:
        SettingsError: if a tile is not larger than its overlap.
    """

    tile_px: int
    overlap_px: int

    def __post_init__(self) -> None:
        if not 0 <= self.overlap_px < self.tile_px:
            raise SettingsError(
                f"The tile overlap cannot be used. Got {self.overlap_px} pixels, need 0 to "
                f"{self.tile_px - 1} for tiles of {self.tile_px}. Use a smaller overlap."
            )


@dataclass(frozen=True)
class Tile:
    """One tile: its latent rows and columns, and the weights its result is blended with."""

    rows: range
    columns: range
    weight: Tensor | None
    """fp32 (H, W) in the units of the result; None for a tile that covers the image."""

    def crop(self, x: Tensor, scale: int) -> Tensor:
        """Returns the tile's view of x (..., H scale, W scale), of `scale` units a latent pixel."""
        rows, columns = self.rows, self.columns
        return x[
            ...,
            rows.start * scale : rows.stop * scale,
            columns.start * scale : columns.stop * scale,
        ]

    def weighted(self, result: Tensor) -> Tensor:
        """Returns the tile's result as it is added to those of its neighbours."""
        return result if self.weight is None else result * self.weight

    def blend(self, weighted: Tensor, out: Tensor, scale: int) -> None:
        """Puts a `weighted` result in its place in `out`, any device and dtype, zero before."""
        if self.weight is None:
            out.copy_(weighted)
        else:
            self.crop(out, scale).add_(weighted.to(out))


def plan_tiles(
    size: tuple[int, int],
    tiling: Tiling | None,
    *,
    stride: int,
    scale: int,
    device: torch.device,
) -> list[Tile]:
    """Returns the tiles of an image, row by row.

    Args:
        size: height and width of the latent.
        tiling: None for one tile.
        stride: video pixels per latent pixel.
        scale: units of the blended result per latent pixel.
        device: where the results will be.
    """
    if tiling is None:
        return [Tile(range(size[0]), range(size[1]), None)]
    tile = max(1, tiling.tile_px // stride)
    overlap = min(math.ceil(tiling.overlap_px / stride), tile - 1)
    rows, columns = (_split(length, tile, overlap) for length in size)
    row_weights, column_weights = _blend_weights(rows, scale), _blend_weights(columns, scale)
    return [
        Tile(row, column, (row_weight[:, None] * column_weight).to(device))
        for row, row_weight in zip(rows, row_weights, strict=True)
        for column, column_weight in zip(columns, column_weights, strict=True)
    ]


def _split(size: int, tile: int, overlap: int) -> list[range]:
    """Splits an axis into as few tiles as possible, all of one length, evenly spaced."""
    count = max(1, math.ceil((size - overlap) / (tile - overlap)))
    length = min(size, math.ceil((size + (count - 1) * overlap) / count))
    last = max(1, count - 1)
    starts = [(size - length) * index // last for index in range(count)]
    return [range(start, start + length) for start in starts]


def _blend_weights(spans: list[range], scale: int) -> list[Tensor]:
    """Returns fp32 weights of each span, `scale` units a pixel, that sum to 1 everywhere.

    They rise and fall linearly where neighbours overlap.
    """
    weights = [torch.ones(len(span) * scale) for span in spans]
    for index, (span, following) in enumerate(pairwise(spans)):
        shared = (span.stop - following.start) * scale
        ramp = (torch.arange(shared) + 0.5) / max(1, shared)
        weights[index][len(weights[index]) - shared :] *= ramp.flip(0)
        weights[index + 1][:shared] *= ramp
    # Tiles shorter than twice the overlap meet in threes, where the ramps alone do not sum to 1.
    total = torch.zeros(spans[-1].stop * scale)
    places = [slice(span.start * scale, span.stop * scale) for span in spans]
    for place, weight in zip(places, weights, strict=True):
        total[place] += weight
    return [weight / total[place] for place, weight in zip(places, weights, strict=True)]
