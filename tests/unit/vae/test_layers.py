"""Single layers against their definitions."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from tests.parity.recipe import fill, value
from wan_model.vae.feature_cache import FeatureCache
from wan_model.vae.layers import Conv1x1x1, ResidualBlock, RMSNorm, Upsample, through
from wan_model.vae.wan22 import average_down


def channels_last(x: Tensor) -> Tensor:
    """Returns a frame (B, H, W, C) for x (B, C, H, W)."""
    return x.permute(0, 2, 3, 1).contiguous()


def test_norm_is_the_official_formula() -> None:
    norm = RMSNorm(6, 3)
    norm.gamma.data = value("gamma", (6, 1, 1, 1), 0.1, 1.0)
    x = value("x", (2, 6, 3, 4, 5))
    expected = F.normalize(x, dim=1) * 6**0.5 * norm.gamma
    torch.testing.assert_close(norm(x), expected, atol=3e-6, rtol=0)
    assert torch.equal(norm(torch.zeros_like(x)), torch.zeros_like(x))


def test_convolution_of_single_pixels() -> None:
    conv, x = fill(Conv1x1x1(3, 5)), value("x", (2, 3, 4, 5, 6))
    torch.testing.assert_close(conv(x), F.conv3d(x, conv.weight, conv.bias))


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("out_channels", [4, 6])
def test_a_residual_block_leaves_its_input_alone(out_channels: int, gradients: bool) -> None:
    block = fill(ResidualBlock(4, out_channels)).requires_grad_(gradients)
    frame = channels_last(value("x", (1, 4, 3, 5)))
    before = frame.clone()
    with torch.set_grad_enabled(gradients):
        [result] = block(iter([frame]), FeatureCache())
    assert torch.equal(frame, before)
    assert result.requires_grad == gradients


@torch.no_grad()
def test_upsampling_is_a_convolution_of_doubled_pixels() -> None:
    up = fill(Upsample(3, 5, time=False))
    conv = up.resample["1"]
    x = value("x", (2, 3, 4, 6))
    expected = F.conv2d(F.interpolate(x, scale_factor=2.0), conv.weight, conv.bias, padding=1)
    [result] = up(iter([channels_last(x)]), FeatureCache())
    torch.testing.assert_close(result.permute(0, 3, 1, 2), expected, atol=6e-6, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("time", "in_channels"), [(True, 4), (False, 4), (False, 8)])
def test_upsampling_adds_the_official_shortcut(first: bool, time: bool, in_channels: int) -> None:
    """DupUp3D: repeat channels, unfold into time and space, drop the frames before the first."""
    up = fill(Upsample(4, 4, time=time))
    h = channels_last(value("h", (2, 4, 3, 2)))
    x = value("x", (2, in_channels, 1, 3, 2))
    factor_t = 1 + time
    repeated = repeat(x, "b c t h w -> b (c n) t h w", n=4 * factor_t * 4 // in_channels)
    unfold = "b (c s q r) t h w -> (t s) b (h q) (w r) c"
    expected = rearrange(repeated, unfold, s=factor_t, q=2, r=2)[(factor_t - 1) * first :]
    cache = FeatureCache()
    cache.first = first
    plain = list(up(iter([h]), cache))
    cache = FeatureCache()
    cache.first = first
    frames = list(up(iter([h]), cache, shortcut=channels_last(x[:, :, 0])))
    assert len(frames) == len(plain) == len(expected)
    for frame, without, added in zip(frames, plain, expected, strict=True):
        torch.testing.assert_close(frame, without + added)


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("factor_t", [1, 2])
def test_average_down_is_the_official_formula(frames: int, factor_t: int) -> None:
    """AvgDown3D: zero frames in front, fold into channels, mean of consecutive channels."""
    x = value("x", (2, 3, min(frames, factor_t), 4, 6))
    padded = F.pad(x, (0, 0, 0, 0, -x.shape[2] % factor_t, 0))
    fold = "b c (t s) (h q) (w r) -> b (c s q r) t h w"
    folded = rearrange(padded, fold, s=factor_t, q=2, r=2)
    expected = folded.unflatten(1, (3 * factor_t, -1)).mean(2)[:, :, 0]
    group = [channels_last(frame) for frame in x.unbind(2)]
    averaged = average_down(group, to_channels=3 * factor_t)
    torch.testing.assert_close(averaged.permute(0, 3, 1, 2), expected)


class Stage(nn.Module):
    """Hands out each frame twice and says when."""

    def __init__(self, name: str, log: list[str]) -> None:
        super().__init__()
        self.name, self.log = name, log

    def forward(self, frames: Iterator[Tensor], _cache: FeatureCache) -> Iterator[Tensor]:
        for index, frame in enumerate(frames):
            for half in "ab":
                self.log.append(f"{self.name}{index}{half}")
                yield frame


def test_a_frame_goes_all_the_way_before_the_next_one_starts() -> None:
    log: list[str] = []
    stages = [Stage("x", log), Stage("y", log)]
    frames = through(stages, iter([torch.zeros(1)]), FeatureCache())
    next(frames)
    assert log == ["x0a", "y0a"]
    list(frames)
    assert log == ["x0a", "y0a", "y0b", "x0b", "y1a", "y1b"]
