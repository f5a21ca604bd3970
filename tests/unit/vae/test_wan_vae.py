"""Streaming, batches, dtypes, progress and refusals of the VAEs."""

import copy

import pytest
import torch
from torch import Tensor

from tests.unit.vae.inputs import make_latent, make_video
from wan_model.config import VaeConfig
from wan_model.errors import SettingsError, ShapeError
from wan_model.vae import Tiling, WanVae, build_vae


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


def test_sizes(vae: WanVae) -> None:
    stride = vae.config.spatial_stride
    assert vae.encode(make_video(vae, 9)).shape == (1, vae.config.z_dim, 3, 2, 3)
    assert vae.decode(make_latent(vae, 3)).shape == (1, 3, 9, 2 * stride, 3 * stride)


def test_streamed_frames_are_those_of_decode(vae: WanVae) -> None:
    latent = make_latent(vae)
    chunks = list(vae.decode_frames(latent))
    assert [chunk.shape[2] for chunk in chunks] == [1, 4, 4]
    assert torch.equal(torch.cat(chunks, 2), vae.decode(latent))


def test_frames_do_not_depend_on_later_ones(vae: WanVae) -> None:
    latent, video = make_latent(vae), make_video(vae)
    assert torch.equal(vae.decode(latent)[:, :, :5], vae.decode(latent[:, :, :2]))
    assert torch.equal(vae.encode(video)[:, :, :2], vae.encode(video[:, :, :5]))


def test_frames_depend_on_earlier_ones(vae: WanVae) -> None:
    latent = make_latent(vae)
    changed = latent.clone()
    changed[:, :, 0] += 1
    assert not torch.allclose(vae.decode(latent)[:, :, -1], vae.decode(changed)[:, :, -1])


def test_passes_do_not_disturb_each_other(vae: WanVae) -> None:
    first, second = make_latent(vae), -make_latent(vae)
    passes = zip(vae.decode_frames(first), vae.decode_frames(second), strict=True)
    ours, others = (torch.cat(chunks, 2) for chunks in zip(*passes, strict=True))
    assert torch.equal(ours, vae.decode(first))
    assert torch.equal(others, vae.decode(second))


def test_a_batch_equals_its_items(vae: WanVae) -> None:
    latent, video = make_latent(vae, batch=2), make_video(vae, batch=2)
    decoded, encoded = vae.decode(latent), vae.encode(video)
    for item in range(2):
        assert torch.equal(decoded[item], vae.decode(latent[item : item + 1])[0])
        assert torch.equal(encoded[item], vae.encode(video[item : item + 1])[0])
    together = torch.cat(list(vae.decode_frames(latent)), 2)
    torch.testing.assert_close(together, decoded, atol=2e-5, rtol=0)


def test_decode_writes_into_the_given_buffer(vae: WanVae) -> None:
    latent = make_latent(vae)
    expected = vae.decode(latent)
    # A view of something larger, in another dtype, holding rubbish.
    buffer = torch.full((2, *expected.shape[1:]), torch.nan, dtype=torch.bfloat16)[1:]
    for tiling in (None, Tiling(vae.config.spatial_stride * 3, 0)):
        assert vae.decode(latent, out=buffer, tiling=tiling) is buffer
        assert torch.equal(buffer, expected.bfloat16())


def test_unnormalized_latents_are_shifted_and_scaled(vae: WanVae) -> None:
    video = make_video(vae, 5)
    mean, std = (
        torch.tensor(numbers).view(-1, 1, 1, 1) for numbers in (vae.latent_mean, vae.latent_std)
    )
    raw, latent = vae.encode(video, normalized=False), vae.encode(video)
    torch.testing.assert_close(raw, latent * std + mean)
    torch.testing.assert_close(vae.decode(raw, normalized=False), vae.decode(latent))


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
def test_half_precision_is_close(vae: WanVae, dtype: torch.dtype, limit: float) -> None:
    half = copy.deepcopy(vae).to(dtype)
    latent, video = make_latent(vae), make_video(vae)
    assert half.dtype == dtype
    encoded, decoded = half.encode(video), half.decode(latent)
    assert encoded.dtype == decoded.dtype == torch.float32
    assert half.decode(latent[:, :, :1].to(dtype)).dtype == dtype
    assert next(half.decode_frames(latent)).dtype == dtype
    assert relative_error(decoded, vae.decode(latent)) < limit
    assert relative_error(encoded, vae.encode(video)) < limit


def test_building_on_meta_loses_nothing(vae: WanVae) -> None:
    with torch.device("meta"):
        empty = build_vae(vae.config)
    empty.load_state_dict(vae.state_dict(), assign=True)
    assert not any(tensor.requires_grad for tensor in empty.parameters())
    latent = make_latent(vae, 2)
    assert torch.equal(empty.decode(latent), vae.decode(latent))


@pytest.mark.parametrize("tiling", [None, Tiling(32, 0)])
def test_progress_is_told_before_each_chunk(vae: WanVae, tiling: Tiling | None) -> None:
    stride = vae.config.spatial_stride
    tiles = 1 if tiling is None else -(-2 * stride // 32) * -(-3 * stride // 32)
    total = 2 * tiles * 3
    calls: list[tuple[int, int]] = []

    def report(done: int, total: int) -> None:
        calls.append((done, total))

    vae.decode(make_latent(vae, batch=2), tiling=tiling, on_chunk=report)
    assert calls == [(done, total) for done in range(total)]
    calls.clear()
    vae.encode(make_video(vae, batch=2), tiling=tiling, on_chunk=report)
    assert calls == [(done, total) for done in range(total)]


def test_an_interrupt_passes_through_and_leaves_nothing_behind(vae: WanVae) -> None:
    latent = make_latent(vae)
    expected = vae.decode(latent)

    def interrupt(done: int, total: int) -> None:
        if done == total - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vae.decode(latent, on_chunk=interrupt)
    assert torch.equal(vae.decode(latent), expected)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((1, 3, 7, 32, 32), "Use 5 or 9"),
        ((1, 3, 0, 32, 32), "Use 1"),
        ((1, 3, 5, 33, 32), "The height cannot be used"),
        ((1, 3, 5, 32, 40 - 1), "The width cannot be used"),
        ((1, 3, 5, 0, 32), "The height cannot be used"),
        ((1, 4, 5, 32, 32), "wrong shape"),
        ((3, 5, 32, 32), "wrong shape"),
    ],
)
def test_encode_refuses_what_it_would_have_to_cut(
    vae: WanVae, shape: tuple[int, ...], reason: str
) -> None:
    with pytest.raises(ShapeError, match=reason):
        vae.encode(torch.zeros(shape))


def test_decode_refuses_another_models_latent(vae: WanVae) -> None:
    other = 64 - vae.config.z_dim
    for decode in (vae.decode, vae.decode_frames):
        with pytest.raises(ShapeError, match=rf"need \(batch, {vae.config.z_dim}, "):
            decode(torch.zeros(1, other, 2, 2, 2))


def test_decode_refuses_a_buffer_of_another_size(vae: WanVae) -> None:
    with pytest.raises(ShapeError, match="output buffer"):
        vae.decode(make_latent(vae), out=torch.zeros(1, 3, 8, 32, 48))


def test_latent_channels_must_fit_the_variant() -> None:
    config = VaeConfig(variant="wan2.1", encoder_dim=8, decoder_dim=8, z_dim=48)
    with pytest.raises(SettingsError, match=r"Got 48, need 16 for wan2\.1"):
        build_vae(config)
