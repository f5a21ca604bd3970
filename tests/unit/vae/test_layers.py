"""Single layers against their definitions."""

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from tests.parity.recipe import value
from wan_model.vae.cache import FeatureCache
from wan_model.vae.layers import Conv3d, RMSNorm, cudnn_conv3d_is_avoided
from wan_model.vae.wan22 import add_repeated, average_down


def run_in_chunks(conv: Conv3d, x: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Applies a causal convolution to x (B, C, T, H, W) chunk by chunk."""
    cache = FeatureCache()
    with torch.no_grad():
        return torch.cat([conv(cache.prepend(conv, chunk)) for chunk in x.split(lengths, 2)], 2)


@pytest.mark.parametrize("lengths", [(7,), (1, 4, 2), (1, 1, 1, 1, 1, 1, 1), (3, 4), (2, 1, 4)])
def test_convolution_in_chunks_is_causal_convolution(lengths: tuple[int, ...]) -> None:
    conv = Conv3d(3, 5, (3, 3, 3))
    x = value("x", (2, 3, 7, 4, 6))
    expected = F.conv3d(F.pad(x, (1, 1, 1, 1, 2, 0)), conv.weight, conv.bias)
    torch.testing.assert_close(run_in_chunks(conv, x, lengths), expected, atol=1e-5, rtol=0)


def test_cache_does_not_keep_the_chunk_alive() -> None:
    cache, conv = FeatureCache(), Conv3d(1, 1, (3, 1, 1))
    cache.prepend(conv, torch.ones(1, 1, 64, 2, 2))
    (kept,) = cache._past.values()
    assert kept.untyped_storage().nbytes() == 2 * 4 * 4


def test_norm_is_the_official_formula() -> None:
    norm = RMSNorm(6, 3)
    norm.gamma.data = value("gamma", (6, 1, 1, 1), 0.1, 1.0)
    x = value("x", (2, 6, 3, 4, 5))
    expected = F.normalize(x, dim=1) * 6**0.5 * norm.gamma
    torch.testing.assert_close(norm(x), expected, atol=1e-6, rtol=0)
    assert torch.equal(norm(torch.zeros_like(x)), torch.zeros_like(x))


@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("factor_t", [1, 2])
def test_average_down_is_the_official_formula(frames: int, factor_t: int) -> None:
    """AvgDown3D: zero frames in front, fold into channels, mean of consecutive channels."""
    x = value("x", (2, 3, frames, 4, 6))
    padded = F.pad(x, (0, 0, 0, 0, -frames % factor_t, 0))
    fold = "b c (t s) (h q) (w r) -> b (c s q r) t h w"
    folded = rearrange(padded, fold, s=factor_t, q=2, r=2)
    expected = folded.unflatten(1, (3 * factor_t, -1)).mean(2)
    torch.testing.assert_close(average_down(x, pairs=factor_t == 2), expected)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("factor_t", "in_channels"), [(2, 4), (1, 4), (1, 8)])
def test_add_repeated_is_the_official_formula(first: bool, factor_t: int, in_channels: int) -> None:
    """DupUp3D: repeat channels, unfold into time and space, drop the frames before the first."""
    frames = 1 if first else 2
    x = value("x", (2, in_channels, frames, 3, 2))
    repeats = 4 * factor_t * 4 // in_channels
    repeated = repeat(x, "b c t h w -> b (c n) t h w", n=repeats)
    unfold = "b (c s q r) t h w -> b c (t s) (h q) (w r)"
    expected = rearrange(repeated, unfold, s=factor_t, q=2, r=2)[:, :, (factor_t - 1) * first :]
    h = value("h", expected.shape)
    assert torch.equal(add_repeated(h.clone(), x), h + expected)


@pytest.mark.parametrize(
    ("torch_version", "cudnn_version", "avoided"),
    [
        ("2.9.1+cu128", 91002, True),
        ("2.10.0", 91499, True),
        ("2.10.0", 91500, False),
        ("2.9.0", 91001, False),
        ("2.8.0", 91002, False),
        ("2.11.0+cu130", 91002, False),
        ("2.9.0a0+git123", None, False),
    ],
)
def test_versions_whose_half_precision_convolution_avoids_cudnn(
    torch_version: str, cudnn_version: int | None, avoided: bool
) -> None:
    assert cudnn_conv3d_is_avoided(torch_version, cudnn_version) is avoided
