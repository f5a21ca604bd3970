"""The preview VAEs: streaming, number ranges, whose latents they take, and their memory."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.parity.recipe import fill, value
from tests.unit.vae.inputs import make_latent, make_video
from wan_model.errors import SettingsError, ShapeError
from wan_model.vae import Tiling, estimate_peak_bytes
from wan_model.vae.peak_memory import Operation
from wan_model.vae.preview import (
    FrameMemory,
    Grow,
    MemoryBlock,
    Merge,
    PreviewVae,
    PreviewVaeConfig,
    build_preview_vae,
    estimate_preview_bytes,
)

WIDTHS = {"encoder_dim": 8, "decoder_dim": 8, "stage_dims": (32, 16, 8)}
SMALL = (
    PreviewVaeConfig(variant="wan2.1", z_dim=16, family="TAEHV", **WIDTHS),
    PreviewVaeConfig(variant="wan2.2", z_dim=48, family="LightTAE", **WIDTHS),
)
RELEASED = PreviewVaeConfig(
    variant="wan2.1",
    z_dim=16,
    family="TAEHV",
    encoder_dim=64,
    decoder_dim=64,
    stage_dims=(256, 128, 64),
)


@pytest.fixture(scope="module", params=SMALL, ids=lambda config: config.variant)
def vae(request: pytest.FixtureRequest) -> PreviewVae:
    return fill(build_preview_vae(request.param))


def with_family(vae: PreviewVae, family: str) -> PreviewVae:
    """The same weights, taken for those of the other family."""
    other = build_preview_vae(dataclasses.replace(vae.config, family=family))
    other.load_state_dict(vae.state_dict())
    return other


@pytest.mark.parametrize(("frames", "latent_frames"), [(1, 1), (5, 2), (17, 5)])
def test_sizes(vae: PreviewVae, frames: int, latent_frames: int) -> None:
    stride = vae.config.spatial_stride
    latent = vae.encode(make_video(vae, frames, batch=2))
    assert latent.shape == (2, vae.config.z_dim, latent_frames, 2, 3)
    assert vae.decode(latent).shape == (2, 3, frames, 2 * stride, 3 * stride)


def test_streaming_is_exact(vae: PreviewVae) -> None:
    """All frames at once through the same layers; the first three frames mean nothing."""
    latent = make_latent(vae, 5, batch=2)
    native = vae._rescaled(latent, True, vae.config.normalized)
    features = vae.decoder(native.movedim(2, 1).flatten(0, 1), FrameMemory(2))
    frames = F.pixel_shuffle(vae.decoder.head(features), vae.config.patch_size)
    expected = frames.unflatten(0, (2, 20))[:, 3:].movedim(1, 2) * 2 - 1
    assert expected.std() > 0.05
    torch.testing.assert_close(vae.decode(latent), expected, atol=1e-5, rtol=0)


def test_encoding_repeats_the_last_frame(vae: PreviewVae) -> None:
    video = make_video(vae, 9, batch=2)
    padded = torch.cat([video, *[video[:, :, -1:]] * 3], dim=2)
    pixels = F.pixel_unshuffle(padded.movedim(2, 1).flatten(0, 1) / 2 + 0.5, vae.config.patch_size)
    assert vae.encoder is not None
    native = vae.encoder(pixels, FrameMemory(2)).unflatten(0, (2, 3)).movedim(1, 2)
    expected = vae._rescaled(native, vae.config.normalized, True)
    torch.testing.assert_close(vae.encode(video), expected, atol=1e-5, rtol=0)


def test_frames_depend_on_earlier_ones_only(vae: PreviewVae) -> None:
    latent = make_latent(vae)
    changed = latent.clone()
    changed[:, :, 1] += 1
    before, after = vae.decode(latent), vae.decode(changed)
    assert torch.equal(before[:, :, :1], after[:, :, :1])
    assert (before[:, :, 5:] - after[:, :, 5:]).abs().max() > 1e-4


def test_memory_of_a_block_is_the_frame_before() -> None:
    block, memory = MemoryBlock(4), FrameMemory(2)
    frames = value("frames", (2, 3, 4, 5, 6))
    first, second = (
        memory.before(block, part.flatten(0, 1)).unflatten(0, (2, -1))
        for part in (frames[:, :2], frames[:, 2:])
    )
    assert torch.equal(first[:, 0], torch.zeros(2, 4, 5, 6))
    assert torch.equal(first[:, 1], frames[:, 0])
    assert torch.equal(second[:, 0], frames[:, 1])
    (kept,) = memory._last.values()
    assert kept.untyped_storage().nbytes() == 2 * 4 * 5 * 6 * 4


def test_time_is_merged_and_grown_in_order() -> None:
    merge, grow = Merge(2, 2), Grow(2, 2)
    merge.conv.weight.data = torch.eye(4)[2:, :, None, None]  # the later frame
    grow.conv.weight.data = torch.eye(2).repeat(2, 1)[:, :, None, None]
    frames = value("frames", (6, 2, 3, 3))
    with torch.no_grad():
        assert torch.equal(merge(frames), frames[1::2])
        assert torch.equal(grow(frames), frames.repeat_interleave(2, dim=0))


@pytest.mark.parametrize("family", ["TAEHV", "LightTAE"])
def test_latents_are_those_that_the_family_takes(vae: PreviewVae, family: str) -> None:
    """TAEHV takes the transformer's, LightTAE the full VAE's own."""
    vae = with_family(vae, family)
    mean, std = vae._latent_statistics()
    normal = make_latent(vae, 2)
    own = normal * std + mean
    direct = vae.decode(normal if family == "TAEHV" else own, normalized=family == "TAEHV")
    torch.testing.assert_close(vae.decode(normal), direct, atol=1e-5, rtol=0)
    torch.testing.assert_close(vae.decode(own, normalized=False), direct, atol=1e-5, rtol=0)
    # The network is given the numbers themselves, on the side that is its own.
    other = with_family(vae, "LightTAE" if family == "TAEHV" else "TAEHV")
    assert torch.equal(
        other.decode(normal, normalized=family != "TAEHV"),
        vae.decode(normal, normalized=family == "TAEHV"),
    )

    video = make_video(vae, 5)
    normal, own = vae.encode(video), vae.encode(video, normalized=False)
    torch.testing.assert_close(normal * std + mean, own, atol=1e-5, rtol=0)
    native = vae.encode(video, normalized=family == "TAEHV")
    assert torch.equal(other.encode(video, normalized=family != "TAEHV"), native)


def test_pixels_have_the_range_of_the_other_vaes(vae: PreviewVae) -> None:
    """The network's 0 is black, -1 to the outside; its 1 is white."""
    vae = with_family(vae, vae.config.family)
    vae.decoder["22"].weight.data.zero_()
    for level in (0.0, 1.0, 1.5):
        vae.decoder["22"].bias.data.fill_(level)
        assert torch.all(vae.decode(make_latent(vae)) == 2 * level - 1)
    seen: list[Tensor] = []
    assert vae.encoder is not None
    vae.encoder["0"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for level in (-1.0, 1.0):
        vae.encode(torch.full_like(make_video(vae, 1), level))
        assert torch.all(seen[-1] == (level + 1) / 2)


def test_extreme_latents_are_limited(vae: PreviewVae) -> None:
    seen: list[Tensor] = []
    hook = vae.decoder["1"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    latent = make_latent(vae, 1)
    vae.decode(latent * 100, normalized=vae.config.normalized)
    vae.decode(latent, normalized=vae.config.normalized)
    hook.remove()
    assert 2.9 < seen[0].abs().max() <= 3
    torch.testing.assert_close(seen[1], 3 * torch.tanh(latent[:, :, 0] / 3))


def test_video_is_not_changed_by_encoding(vae: PreviewVae) -> None:
    video = make_video(vae, 5)
    before = video.clone()
    vae.encode(video)
    assert torch.equal(video, before)


def test_tiles_and_progress(vae: PreviewVae) -> None:
    latent = value("latent", (1, vae.config.z_dim, 2, 12, 12))
    calls: list[tuple[int, int]] = []
    stride = vae.config.spatial_stride
    tiling = Tiling(8 * stride, 4 * stride)
    tiled = vae.decode(latent, tiling=tiling, on_chunk=lambda *call: calls.append(call))
    whole = vae.decode(latent)
    assert calls == [(index, 8) for index in range(8)]
    assert (tiled - whole).norm() < 0.1 * whole.norm()
    encoded = vae.encode(whole)
    assert (vae.encode(whole, tiling=tiling) - encoded).norm() < 0.2 * encoded.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(vae: PreviewVae, dtype: torch.dtype) -> None:
    half = with_family(vae, vae.config.family).to(dtype)
    assert half.dtype == dtype
    expected = vae.decode(make_latent(vae))
    assert (half.decode(make_latent(vae)) - expected).norm() < 2e-2 * expected.norm()
    expected = vae.encode(make_video(vae))
    assert (half.encode(make_video(vae)) - expected).norm() < 2e-2 * expected.norm()


def test_a_latent_of_another_vae_is_refused(vae: PreviewVae) -> None:
    channels = 64 - vae.config.z_dim
    with pytest.raises(ShapeError, match=rf"{vae.config.variant} VAE.*{vae.config.z_dim}, frames"):
        vae.decode(torch.zeros(1, channels, 1, 2, 2))


def test_without_an_encoder_images_are_refused(vae: PreviewVae) -> None:
    decoder_only = build_preview_vae(dataclasses.replace(vae.config, encoder_dim=0))
    decoder = {k: t for k, t in vae.state_dict().items() if k.startswith("decoder.")}
    decoder_only.load_state_dict(decoder)
    latent = make_latent(vae)
    assert torch.equal(decoder_only.decode(latent), vae.decode(latent))
    with pytest.raises(SettingsError, match="cannot encode"):
        decoder_only.encode(make_video(vae))


@pytest.mark.parametrize("operation", ["encode", "decode"])
def test_memory_estimate(operation: Operation) -> None:
    fp16, fp32 = (
        estimate_preview_bytes(RELEASED, operation, 720, 1280, dtype)
        for dtype in (torch.float16, torch.float32)
    )
    assert 500 * 2**20 < fp16 < 2**30
    assert fp32 == 2 * fp16
    small = dataclasses.replace(RELEASED, variant="wan2.2", z_dim=48)
    assert estimate_preview_bytes(small, operation, 720, 1280, torch.float16) == fp16 // 4
    full = dataclasses.replace(RELEASED, encoder_dim=96, decoder_dim=96)
    assert fp16 < estimate_peak_bytes(full, operation, 720, 1280, torch.float16) / 4


def test_memory_does_not_grow_with_the_video(vae: PreviewVae) -> None:
    """What is remembered between chunks has the size of single frames."""
    memory = FrameMemory(1)
    for _ in range(3):
        vae.decoder(value("z", (1, vae.config.z_dim, 2, 3)), memory)
    numbers = sum(frame.numel() for frame in memory._last.values())
    per_stage = [(2 * 3, 32), (4 * 6, 16), (8 * 12, 8)]
    assert numbers == 3 * sum(pixels * width for pixels, width in per_stage)
