"""Convolutions over time, frame by frame."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.parity.recipe import fill, value
from wan_model.vae.feature_cache import FeatureCache
from wan_model.vae.layers import CausalConv3d

FRAMES, CHANNELS, OUT = 7, 3, 5


def make_video(dtype: torch.dtype = torch.float32) -> Tensor:
    return value("x", (2, CHANNELS, FRAMES, 4, 6)).to(dtype)


def frames_of(video: Tensor) -> list[Tensor]:
    return list(video.permute(2, 0, 3, 4, 1))


def stream(conv: CausalConv3d, video: Tensor) -> Tensor:
    frames = conv(iter(frames_of(video)), FeatureCache())
    return torch.stack(list(frames), 1).movedim(-1, 1)


def expected(conv: CausalConv3d, video: Tensor) -> Tensor:
    """The definition: zeros in front of the video and around its frames."""
    px = conv.kernel_size[-1] // 2
    return F.conv3d(F.pad(video, (px, px, px, px, 2, 0)), conv.weight, conv.bias)


@pytest.mark.parametrize("kernel_px", [1, 3])
def test_frames_in_turn_are_a_causal_convolution(kernel_px: int) -> None:
    conv, video = fill(CausalConv3d(CHANNELS, OUT, kernel_px)), make_video()
    with torch.no_grad():
        torch.testing.assert_close(stream(conv, video), expected(conv, video), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kernel_px", [1, 3])
def test_gradients_are_those_of_a_causal_convolution(kernel_px: int) -> None:
    conv = fill(CausalConv3d(CHANNELS, OUT, kernel_px)).double()
    gradients = []
    for convolve in (stream, expected):
        video = make_video(torch.float64).requires_grad_()
        output = convolve(conv, video)
        loss = (output * value("weights", output.shape)).square().sum()
        gradients.append(torch.autograd.grad(loss, [video, *conv.parameters()]))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@torch.no_grad()
def test_a_window_is_the_frame_behind_the_two_before_it() -> None:
    cache, others = FeatureCache(), CausalConv3d(CHANNELS, OUT, 1)
    conv = CausalConv3d(CHANNELS, OUT, 1)
    zeros = torch.zeros_like(frames_of(make_video())[0])
    frames = [zeros, zeros, *frames_of(make_video())]
    for index, frame in enumerate(frames[2:]):
        cache.append(others, frame + 1)
        window = cache.append(conv, frame)
        assert torch.equal(window, torch.cat(frames[index : index + 3], dim=-1))


def test_what_is_made_once_is_made_once() -> None:
    cache, conv, calls = FeatureCache(), CausalConv3d(1, 1, 1), []

    def make() -> Tensor:
        calls.append(1)
        return torch.zeros(len(calls))

    assert cache.once(conv, make) is cache.once(conv, make)
    assert len(cache.once(conv, make)) == 1
