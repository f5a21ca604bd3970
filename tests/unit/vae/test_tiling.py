"""Tiles: their places, their blending, and what tiled passes give."""

import copy

import pytest
import torch

from tests.parity.recipe import value
from wan_model.errors import SettingsError
from wan_model.vae import Tiling, WanVae
from wan_model.vae.tiling import plan_tiles

CPU = torch.device("cpu")


@pytest.fixture
def near_sighted(vae: WanVae) -> WanVae:
    """A VAE whose pixels see little of their neighbours, so that tiles must agree."""
    vae = copy.deepcopy(vae)
    for key, weight in vae.state_dict().items():
        if key.endswith("proj.weight"):
            weight.zero_()
        elif weight.ndim > 3 and weight.shape[-1] == 3:
            centre = weight[..., 1, 1].clone()
            weight.mul_(0.02)
            weight[..., 1, 1] = centre * 3
    return vae


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (32, 33), (90, 33)])
@pytest.mark.parametrize(
    "tiling", [Tiling(64, 0), Tiling(64, 16), Tiling(128, 64), Tiling(128, 120)]
)
@pytest.mark.parametrize("scale", [1, 8])
def test_blended_crops_are_the_image(size: tuple[int, int], tiling: Tiling, scale: int) -> None:
    image = value("image", (3, size[0] * scale, size[1] * scale))
    blended = torch.zeros_like(image)
    for tile in plan_tiles(size, tiling, stride=8, scale=scale, device=CPU):
        assert max(len(tile.rows), len(tile.columns)) <= tiling.tile_px // 8
        tile.blend(tile.weighted(tile.crop(image, scale)), blended, scale)
    torch.testing.assert_close(blended, image, atol=1e-5, rtol=0)


def test_neighbours_share_the_overlap_and_fade_linearly() -> None:
    left, right = plan_tiles((8, 24), Tiling(128, 64), stride=8, scale=1, device=CPU)
    assert (left.columns, right.columns) == (range(16), range(8, 24))
    assert left.weight is not None
    assert right.weight is not None
    torch.testing.assert_close(right.weight[0, :8], (torch.arange(8) + 0.5) / 8)
    torch.testing.assert_close(left.weight[0, 8:], 1 - right.weight[0, :8])


def test_one_tile_equals_no_tiling(vae: WanVae) -> None:
    stride = vae.config.spatial_stride
    video = value("video", (1, 3, 5, 2 * stride, 2 * stride), 0.5)
    latent = vae.encode(video)
    whole = Tiling(1024, 64)
    assert torch.equal(vae.encode(video, tiling=whole), latent)
    assert torch.equal(vae.decode(latent, tiling=whole), vae.decode(latent))


def test_tiles_agree_with_the_whole(near_sighted: WanVae) -> None:
    vae = near_sighted
    stride = vae.config.spatial_stride
    tiling = Tiling(4 * stride, 2 * stride)
    video = value("video", (1, 3, 5, 5 * stride, 7 * stride), 0.5)
    latent = vae.encode(video)
    tiled = vae.encode(video, tiling=tiling)
    assert tiled.shape == latent.shape
    assert (tiled - latent).norm() < 0.02 * latent.norm()
    decoded, tiled = vae.decode(latent), vae.decode(latent, tiling=tiling)
    assert tiled.shape == video.shape
    assert (tiled - decoded).norm() < 0.02 * decoded.norm()


@pytest.mark.parametrize(("tile_px", "overlap_px"), [(64, 64), (64, -8), (0, 0)])
def test_an_overlap_must_leave_something_of_the_tile(tile_px: int, overlap_px: int) -> None:
    with pytest.raises(SettingsError, match="tile overlap"):
        Tiling(tile_px, overlap_px)
