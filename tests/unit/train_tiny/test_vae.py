"""Whole-clip passes of the VAEs, and the normalisation of their latents."""

import pytest
import torch

from tests.unit.train_tiny.micro import CPU
from tools.train_tiny.vae import (
    build_vae,
    edge_error,
    latent_moments,
    latent_statistics,
    normalise_latents,
    posterior,
    psnr,
    reconstruct,
)
from wan_model.config import VaeConfig

CONFIGS = [
    VaeConfig(variant="wan2.1", encoder_dim=8, decoder_dim=8, z_dim=16),
    VaeConfig(variant="wan2.2", encoder_dim=8, decoder_dim=4, z_dim=48),
]


@pytest.fixture(params=CONFIGS, ids=lambda config: config.variant)
def vae(request):
    torch.manual_seed(0)
    model = build_vae(request.param, CPU, torch.float32)
    for name, parameter in model.named_parameters():
        if name.endswith("residual.6.weight"):  # zero at first; a trained one is not
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def videos(frames: int = 9, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, frames, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("frames", [1, 9])
def test_whole_clips_give_what_streaming_gives(vae, frames):
    vae, video = vae.double(), videos(frames)
    with torch.no_grad():
        mean, log_variance = posterior(vae, video)
        output = reconstruct(vae, mean)
    assert mean.shape == log_variance.shape
    assert (mean - vae.encode(video, normalized=False)).abs().max() < 1e-5
    assert (output - vae.decode(mean, normalized=False)).abs().max() < 1e-5


def test_gradients_predict_how_the_output_changes(vae):
    vae, video = vae.double(), videos(9, 1).double()

    def value() -> torch.Tensor:
        output = reconstruct(vae, posterior(vae, video)[0])
        return (output - video).square().mean()

    value().backward()
    rng = torch.Generator().manual_seed(2)
    parameters = [p for p in vae.parameters() if p.grad is not None]
    steps = [torch.randn(p.shape, generator=rng, dtype=p.dtype) * 1e-5 for p in parameters]
    predicted = sum(float((s * p.grad).sum()) for s, p in zip(steps, parameters, strict=True))
    with torch.no_grad():
        ends = []
        for sign in (1, -2):
            for step, parameter in zip(steps, parameters, strict=True):
                parameter += sign * step
            ends.append(float(value()))
    assert (ends[0] - ends[1]) / 2 == pytest.approx(predicted, rel=1e-2)


def test_normalised_latents_have_the_official_moments_and_decode_to_the_same(vae):
    clips = [videos(5, 4), videos(9, 2)]
    with torch.no_grad():
        before = reconstruct(vae, posterior(vae, clips[1])[0])
        variance_before = posterior(vae, clips[1])[1]
    mean, std = latent_moments(vae, iter(clips))
    normalise_latents(vae, mean, std)
    with torch.no_grad():
        latent, variance = posterior(vae, clips[1])
        after = reconstruct(vae, latent)
    assert (after - before).abs().max() < 1e-4
    measured = torch.stack(latent_moments(vae, iter(clips)))
    wanted = torch.stack(latent_statistics(vae, CPU)).flatten(1)
    assert (measured - wanted).abs().max() < 1e-3
    normalised = vae.encode(torch.cat([clips[0]]))
    assert abs(float(normalised.mean())) < 0.5
    gain = 2 * (wanted[1] / std).log()
    assert torch.allclose(variance - variance_before, gain.view(-1, 1, 1, 1), atol=1e-3)


def test_errors_are_measured():
    video = videos(5)
    assert psnr(video * 0 + 0.2, video * 0) == pytest.approx(20.0, abs=1e-4)
    assert edge_error(video, video) == 0
    assert edge_error(video + 1, video) < 1e-6
    assert edge_error(video * 0, video) > 0.1
