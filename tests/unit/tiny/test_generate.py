"""Clips from prompts and images, with toy weights under the shipped names."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tools.tiny_generate import (
    SIZE_PX,
    Guided,
    PromptEncoder,
    clip_noise,
    decode,
    find_file,
    generate,
    load_tiny,
    load_tiny_vae,
    sample,
)
from tools.tiny_generate.clips import image_condition
from tools.tiny_generate.models import trained_size_px
from tools.tiny_score import quality
from tools.tiny_score.quality import (
    EQUAL_DB,
    make_and_score,
    reconstruction_db,
    score_through_vae,
)
from tools.train_tiny.scenes import score_prompts
from wan_model import expert_split, load_vae, make_sigmas
from wan_model.config import NEGATIVE_PROMPT, OFFICIAL

PROMPTS = ("a red ball moves to the left", "a blue star spins on a grey background, slowly")
SMALL = {"steps": 2, "frames": 5, "size_px": 32}
TOY_NAMES = {
    "wan22-tiny-t2v-high-noise": "diffusion_models/toy_t2v_high_noise",
    "wan22-tiny-t2v-low-noise": "diffusion_models/toy_t2v_low_noise",
    "wan22-tiny-i2v-high-noise": "diffusion_models/toy_i2v_high_noise",
    "wan22-tiny-i2v-low-noise": "diffusion_models/toy_i2v_low_noise",
    "wan22-tiny-ti2v": "diffusion_models/toy_ti2v",
    "wan22-tiny-wan21-vae": "vae/toy_wan_2.1_vae",
    "wan22-tiny-wan22-vae": "vae/toy_wan2.2_vae",
    "wan22-tiny-umt5": "text_encoders/toy_umt5",
}


@pytest.fixture(scope="session")
def models(toy_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    for name, source in TOY_NAMES.items():
        shutil.copy2(toy_models / f"{source}.safetensors", folder / f"{name}.safetensors")
    return folder


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def images(count: int = 2) -> Tensor:
    return random(count, 3, 32, 32).clamp(-1, 1)


class Recorder:
    """A transformer that notes how it is called; with text it says 1, without 0."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Tensor, timestep: Tensor, text: Tensor, cond: Tensor | None) -> Tensor:
        assert cond is None
        self.calls.append((x, timestep))
        return text[:, :1, :1, None, None].expand_as(x).clone()


def one_and_zero() -> Tensor:
    return torch.tensor([1.0, 0.0]).view(2, 1, 1)


def test_each_expert_runs_on_its_side_of_the_boundary():
    high, low = Recorder(), Recorder()
    settings = OFFICIAL["t2v"]
    sample((high, low), Guided(text=one_and_zero()), random(1, 16, 2, 4, 4), settings, steps=10)
    split = expert_split("unipc", 10, settings.shift, settings.boundary)
    assert (len(high.calls), len(low.calls)) == (split, 10 - split)
    timesteps = [float(timestep[0]) for recorder in (high, low) for _, timestep in recorder.calls]
    assert timesteps == sorted(timesteps, reverse=True)
    assert timesteps[split - 1] >= 875 > timesteps[split]


@pytest.mark.parametrize(("boundary", "scale"), [(0.0, 7.0), (1.0, 2.0)])
def test_each_expert_has_its_guidance(boundary, scale):
    settings = replace(OFFICIAL["t2v"], boundary=boundary, cfg_high=7.0, cfg_low=2.0)
    noise, start = random(1, 16, 2, 4, 4), make_sigmas("unipc", 10, settings.shift)[0]
    dits = (Recorder(), Recorder())
    result = sample(dits, Guided(text=one_and_zero()), noise, settings, steps=10)
    # The velocity is the scale everywhere, and the way goes from the first sigma to zero.
    torch.testing.assert_close(result, noise - scale * start, atol=1e-4, rtol=1e-4)


def test_without_guidance_the_negative_prompt_is_left_out():
    high, low, settings = Recorder(), Recorder(), replace(OFFICIAL["t2v"], cfg_high=1.0)
    sample((high, low), Guided(text=one_and_zero()), random(1, 16, 2, 4, 4), settings, steps=4)
    assert {len(x) for x, _ in high.calls} == {1}
    assert {len(x) for x, _ in low.calls} == {2}


def test_without_a_boundary_the_first_one_does_everything():
    only, other = Recorder(), Recorder()
    settings = OFFICIAL["ti2v"]
    sample((only, other), Guided(text=one_and_zero()), random(1, 48, 2, 4, 4), settings, steps=4)
    assert (len(only.calls), len(other.calls)) == (4, 0)


def test_a_given_first_frame_is_clean_at_every_step_and_in_the_end():
    dit, first = Recorder(), random(1, 48, 1, 4, 4)
    guided = Guided(text=one_and_zero(), first=first)
    result = sample((dit, dit), guided, random(1, 48, 3, 4, 4), OFFICIAL["ti2v"], steps=3)
    assert torch.equal(result[:, :, :1], first)
    for x, timestep in dit.calls:
        assert torch.equal(x[:, :, :1], first.expand(2, -1, -1, -1, -1))
        assert not timestep[:, 0].any()
        assert (timestep[:, 1:] > 0).all()


@pytest.mark.parametrize(("kind", "given"), [("t2v", False), ("i2v", True), ("ti2v", True)])
def test_a_clip_does_not_depend_on_the_clips_beside_it(models, kind, given):
    wan = load_tiny(models, kind)
    both = images() if given else None
    together = generate(wan, PROMPTS, both, **SMALL)
    alone = generate(wan, PROMPTS[1:], None if both is None else both[1:], **SMALL)
    torch.testing.assert_close(together[1:], alone, atol=1e-4, rtol=1e-4)
    other = generate(wan, PROMPTS[1:], None if both is None else both[1:], **SMALL, seed=1)
    assert (other - alone).abs().max() > 0.1


def test_a_file_says_for_what_size_it_is_trained(models, tmp_path):
    assert load_tiny(models, "t2v").size_px == SIZE_PX  # files without a note
    file = tmp_path / "noted.safetensors"
    save_file({"x": torch.zeros(1)}, file, {"size_px": "256"})
    assert trained_size_px(file) == 256


@pytest.mark.parametrize("kind", ["t2v", "ti2v"])
def test_guidance_is_the_official_one_or_what_is_asked_for(models, kind):
    official, asked = (load_tiny(models, kind, guidance=scale) for scale in (None, 1.5))
    scales = {"t2v": (4.0, 3.0), "ti2v": (5.0, 5.0)}
    assert (official.settings().cfg_high, official.settings().cfg_low) == scales[kind]
    assert asked.settings() == replace(official.settings(), cfg_high=1.5, cfg_low=1.5)


def test_ti2v_works_without_an_image_and_keeps_one(models):
    wan = load_tiny(models, "ti2v")
    first = wan.vae.encode(images().unsqueeze(2))
    assert torch.equal(generate(wan, PROMPTS, images(), **SMALL)[:, :, :1], first)
    assert not torch.equal(generate(wan, PROMPTS, **SMALL)[:, :, :1], first)


def test_the_image_condition_is_the_official_one(models):
    vae = load_tiny_vae(models, "i2v")
    cond = image_condition(vae, images(), frames=9)
    assert cond.shape == (2, 20, 3, 4, 4)
    assert cond[:, :4, 0].eq(1).all()
    assert cond[:, :4, 1:].eq(0).all()
    video = torch.zeros(2, 3, 9, 32, 32)
    video[:, :, 0] = images()
    torch.testing.assert_close(cond[:, 4:], vae.encode(video), atol=1e-5, rtol=1e-5)


def test_decoding_together_gives_what_one_by_one_gives(models):
    vae = load_tiny_vae(models, "t2v")
    latents = random(2, 16, 3, 4, 4)
    torch.testing.assert_close(decode(vae, latents), vae.decode(latents), atol=1e-4, rtol=1e-4)


def test_prompts_are_read_alike_alone_and_together(models):
    encoder = PromptEncoder(find_file(models, "wan22-tiny-umt5"))
    together = encoder([PROMPTS[0], NEGATIVE_PROMPT])
    alone = encoder([f"  {PROMPTS[0]}\n"])
    length = alone.shape[1]
    assert length < together.shape[1] <= 512
    torch.testing.assert_close(together[:1, :length], alone, atol=1e-5, rtol=1e-5)
    assert not together[0, length:].any()
    assert together[1].any(dim=-1).all()
    assert encoder(["word " * 2000]).shape[1] == 512


def test_noise_is_that_of_prompt_and_seed():
    shape = (16, 2, 4, 4)
    assert torch.equal(clip_noise("a", 0, shape), clip_noise("a", 0, shape))
    assert not torch.equal(clip_noise("a", 0, shape), clip_noise("b", 0, shape))
    assert not torch.equal(clip_noise("a", 0, shape), clip_noise("a", 1, shape))


def test_missing_and_ambiguous_files_are_named(models, tmp_path):
    with pytest.raises(FileNotFoundError, match="wan22-tiny-ti2v"):
        load_tiny(tmp_path, "ti2v")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy2(models / "wan22-tiny-ti2v.safetensors", tmp_path / folder)
    with pytest.raises(FileNotFoundError, match="Got 2 files"):
        find_file(tmp_path, "wan22-tiny-ti2v")


def test_clips_are_scored_and_their_first_frames_compared(models):
    prompts = score_prompts()[:1]
    wan = load_tiny(models, "ti2v")
    clips = make_and_score(wan, prompts, with_image=True, steps=1)
    assert clips.videos.shape == (1, 3, 17, 128, 128)
    assert clips.rates.videos == 1
    assert clips.rates.all == 0
    assert clips.first_frame_db == (EQUAL_DB,)
    without = make_and_score(wan, prompts, with_image=False, steps=1)
    assert not without.first_frame_db


def test_reconstruction_is_measured_clip_by_clip(models, monkeypatch):
    monkeypatch.setattr(quality, "FRAMES", 5)
    vae = load_vae(find_file(models, "wan22-tiny-wan22-vae"))
    values = reconstruction_db(vae, "novel", 2)
    assert len(values) == 2
    assert all(0 < value < 20 for value in values)
    assert values[:1] != reconstruction_db(vae, "val", 1)


def test_true_clips_pass_through_a_vae_that_changes_nothing(models, monkeypatch):
    vae = load_tiny_vae(models, "ti2v")
    assert score_through_vae(vae, score_prompts()[:1]).rates.all == 0
    monkeypatch.setattr(vae, "encode", lambda video: video)
    monkeypatch.setattr(vae, "decode_frames", lambda latent: latent.split(4, dim=2))
    assert score_through_vae(vae, score_prompts()[::28]).rates.all == 1
