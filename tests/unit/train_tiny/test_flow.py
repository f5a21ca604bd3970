"""Noise levels, loss, and the shortcuts of the transformers in training."""

import pytest
import torch

from tests.unit.train_tiny.micro import CPU, micro_recipe
from tools.train_tiny.data import Clips, Ring, generator
from tools.train_tiny.dit import (
    Examples,
    build_dit,
    flow_loss,
    folded_padding,
    sample_sigmas,
    training_config,
)
from tools.train_tiny.fp8 import fp8_layers, rounded, to_fp8
from tools.train_tiny.latents import LatentMaker
from wan_model.attention import resolve
from wan_model.conditioning import condition_video, known_frames_mask
from wan_model.config import TEXT_LEN, Precision
from wan_model.dit import WanDiT
from wan_model.quant import DEQUANTIZED, scale_weight
from wan_model.sampling import is_high_noise
from wan_model.vae import WanVae


def make_dit(stage="t2v", text_len=40):
    torch.manual_seed(3)
    recipe = micro_recipe()
    dit = build_dit(training_config(recipe.dit_config(stage), text_len - 1), CPU, torch.float32)
    for parameter in (dit.head.head.weight, *(b.modulation for b in dit.blocks)):
        torch.nn.init.normal_(parameter, std=0.3)  # the output is 0 at first
    return dit


def make_text(batch, tokens=30):
    text = torch.randn(batch, tokens, 64, generator=torch.Generator().manual_seed(4))
    text[0, 12:] = 0
    return text


@pytest.mark.parametrize("boundary", [0.875, 0.9])
@pytest.mark.parametrize("shift", [1.0, 5.0, 12.0])
def test_noise_levels_stay_on_the_experts_side(boundary, shift):
    rng = torch.Generator().manual_seed(0)
    high = sample_sigmas(4096, (boundary, 1.0), shift, rng)
    low = sample_sigmas(4096, (0.0, boundary), shift, rng)
    assert high.max() <= 1
    assert low.min() >= 0
    assert all(is_high_noise(sigma, boundary) for sigma in high.tolist())
    assert sum(is_high_noise(sigma, boundary) for sigma in low.tolist()) <= 1


def test_noise_levels_are_those_of_the_shifted_uniform_distribution():
    sigma = sample_sigmas(1000, (0.0, 1.0), 5.0, torch.Generator().manual_seed(0)).sort().values
    uniform = (torch.arange(1000) + 0.5) / 1000
    assert (sigma - 5 * uniform / (1 + 4 * uniform)).abs().max() < 3e-3


def test_one_weighted_token_stands_for_all_padding():
    rng = torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(2, n, 1, 8, generator=rng).double() for n in (6, 40, 40))
    rest = TEXT_LEN - 40
    full_k, full_v = (torch.cat((x, x[:, -1:].expand(-1, rest, -1, -1)), dim=1) for x in (k, v))
    difference = folded_padding(40)(q, k, v) - resolve("sdpa")(q, full_k, full_v)
    assert difference.abs().max() < 1e-12
    own = folded_padding(40)(k, k, v)
    assert torch.equal(own, resolve("sdpa")(k, k, v))


def test_text_padded_by_one_weighted_token_is_text_padded_to_512():
    dit = make_dit()
    full = WanDiT(
        micro_recipe().dit_config("t2v"), precision=Precision(), attention=resolve("sdpa")
    )
    full.load_state_dict(dit.state_dict())
    for name, layer in fp8_layers(full).items():
        layer.matmul = dit.get_submodule(name).matmul
    rng = torch.Generator().manual_seed(5)
    latent = torch.randn(2, 16, 2, 4, 4, generator=rng)
    inputs = latent, torch.tensor([700.0, 20.0]), make_text(2)
    with torch.no_grad():
        difference = dit(*inputs) - full(*inputs)
    assert difference.abs().max() < 1e-4


def test_timesteps_per_frame_are_embedded_like_in_the_model():
    dit = make_dit("ti2v")
    plain = WanDiT(dit.config, precision=dit.precision, attention=dit.attend)
    plain.load_state_dict(dit.state_dict())
    for name, layer in fp8_layers(plain).items():
        layer.matmul = dit.get_submodule(name).matmul
    latent = torch.randn(2, 48, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    timestep = torch.tensor([[0.0, 600.0, 600.0], [300.0, 300.0, 300.0]])
    with torch.no_grad():
        difference = dit(latent, timestep, make_text(2)) - plain(latent, timestep, make_text(2))
    assert difference.abs().max() < 1e-5


def test_the_loss_is_that_of_the_velocity():
    dit = make_dit()
    rng = torch.Generator().manual_seed(6)
    x0, noise = torch.randn(2, 2, 16, 2, 4, 4, generator=rng)
    sigma = torch.tensor([0.3, 0.95])
    with torch.no_grad():
        loss = flow_loss(dit, Examples(x0, make_text(2)), sigma, noise)
        for item in range(2):
            s = float(sigma[item])
            x = ((1 - s) * x0 + s * noise)[item : item + 1]
            velocity = dit(x, torch.tensor([1000 * s]), make_text(2)[item : item + 1])
            expected = (velocity - (noise - x0)[item]).square().mean()
            assert loss[item] == pytest.approx(float(expected), rel=1e-5)


def test_a_given_first_frame_is_clean_and_does_not_count():
    seen = []

    def model(x, timestep, *_):
        seen.append((x, timestep))
        velocity = torch.zeros_like(x)
        velocity[:, :, 0] = 100
        return velocity

    x0, noise = torch.zeros(2, 48, 3, 2, 2), torch.ones(2, 48, 3, 2, 2)
    given = torch.tensor([True, False])
    loss = flow_loss(
        model, Examples(x0, make_text(2), given=given), torch.tensor([0.5, 0.5]), noise
    )
    x, timestep = seen[0]
    assert timestep.tolist() == [[0, 500, 500], [500, 500, 500]]
    assert not x[0, :, 0].any()
    assert (x[0, :, 1:] == 0.5).all()
    assert (x[1] == 0.5).all()
    assert loss[0] == pytest.approx(1.0)
    assert loss[1] > 1000


def test_training_rounds_weights_as_the_shipped_file_does():
    for name, layer in fp8_layers(make_dit()).items():
        weight = rounded(layer.weight)
        assert (weight - scale_weight(*to_fp8(layer.weight))).abs().max() < 1e-7, name
        assert layer.matmul != DEQUANTIZED
        weight.sum().backward()
        assert (layer.weight.grad == 1).all()


@pytest.fixture(scope="module")
def maker(trained):
    recipe = micro_recipe()
    from tools.train_tiny.runs import open_tokenizer
    from wan_model import load_vae

    vae: WanVae = load_vae(trained.weights("vae21"), dtype=torch.float32)
    clips = Clips(recipe.clips, recipe.seed, "train", CPU)
    return LatentMaker(clips, vae, open_tokenizer(recipe, trained), "i2v", 2, 0.5)


def test_conditions_are_those_of_the_library(maker):
    video = maker.clips.render(maker.clips.scenes(0, 2))
    cond = maker.condition(video, torch.tensor([False, True]))
    for item, last in enumerate((0, 1)):
        images = (video[item].permute(1, 2, 3, 0) + 1) / 2
        end = images[-1:] if last else None
        known = condition_video(video.shape[2], images[:1], end).permute(3, 0, 1, 2)[None]
        latent = maker.vae.encode(known * 2 - 1)
        mask = known_frames_mask(video.shape[2], 1, last, *latent.shape[-2:])
        assert torch.equal(cond[item : item + 1, :4], mask)
        assert (cond[item : item + 1, 4:] - latent).abs().max() < 1e-4


def test_groups_are_the_same_every_time_and_differ(maker):
    first, again, other = maker.group(0, 4), maker.group(0, 4), maker.group(1, 4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["latent"], other["latent"])
    assert first["tokens"].shape == (4, 2, micro_recipe().text.max_tokens)


def test_a_ring_holds_the_same_at_a_step_whatever_happened_before():
    made = []

    def make(number):
        made.append(number)
        return {"x": torch.tensor([number, number])}

    ring = Ring(make, groups=3, refresh_steps=2)
    held = [sorted(set(ring.advance(step)["x"].tolist())) for step in range(6)]
    assert held == [[0, 1, 2], [0, 1, 2], [1, 2, 3], [1, 2, 3], [2, 3, 4], [2, 3, 4]]
    assert made == [0, 1, 2, 3, 4]
    late = Ring(make, groups=3, refresh_steps=2)
    assert torch.equal(late.advance(5)["x"], ring.advance(5)["x"])


def test_random_numbers_depend_on_the_key():
    first, again, other = (torch.rand(3, generator=generator(CPU, 1, k)) for k in ("a", "a", "b"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
