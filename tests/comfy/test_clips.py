"""Clips that continue a latent, and one video of several."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

import wan_model
from wan_model.conditioning import known_frames_mask

from .graphs import (
    I2V,
    TI2V,
    VAE_21,
    VAE_22,
    Prompt,
    experts,
    image_to_video,
    model,
    moe_sampler,
    node,
    random_text,
    save,
    vae,
)
from .server import ComfyServer

pytestmark = pytest.mark.comfy

LINKS = {"positive": ("positive", 0), "negative": ("negative", 0)}


def encoded(name: str, seed: int, count: int = 9, height: int = 48) -> Prompt:
    """A latent of random images: (name, 0). Saved too."""
    options = {"seed": seed, "width": 64, "height": height, "count": count, "channels": 3}
    return {
        f"{name}_images": node("WanDuetTestImage", **options),
        name: node("VAEEncode", pixels=(f"{name}_images", 0), vae=("vae", 0)),
        **save(name, latent=(name, 0)),
    }


def joined(*clips: str, **options: Any) -> Prompt:
    """One video of clips, read from its file again; its frames are saved as joined.safetensors."""
    widgets = {"blend": "cut", "match_colours": False, "overlap": 1, "loop": False, "fps": 0.0}
    links = {f"clip_{number}": (name, 0) for number, name in enumerate(clips, 1)}
    return {
        "join": node("WanDuetJoinClips", vae=("vae", 0), **{**widgets, **links, **options}),
        "parts": node("GetVideoComponents", video=("join", 0)),
        **save("joined", image=("parts", 0)),
    }


def run(server: ComfyServer, prompt: Prompt) -> None:
    """Runs a prompt that must succeed."""
    result = server.run({**random_text(text_dim=64, tokens=20), **prompt})
    assert result.status == "success", result.error


def saved(server: ComfyServer, name: str) -> dict[str, Tensor]:
    return load_file(server.output / f"{name}.safetensors")


def decoded(models: Path, latent: Tensor, name: str = VAE_21) -> Tensor:
    """The library's frames (T, H, W, 3) in [0, 1] of a latent in ComfyUI's numbers."""
    wan_vae = wan_model.load_vae(models / "vae" / name, dtype=torch.float32)
    with torch.inference_mode():
        return ((wan_vae.decode(latent, normalized=False)[0] + 1) / 2).clamp(0, 1).movedim(0, -1)


def assert_same_video(actual: Tensor, expected: Tensor) -> None:
    """Coarsely, as H.264 changes small frames of noise; frames beside them differ by more."""
    assert actual.shape == expected.shape
    coarse, wanted = (F.avg_pool2d(v.movedim(-1, 1), 8) for v in (actual, expected))
    error = (coarse - wanted).abs().mean()
    assert error < 0.05
    for shift in (-1, 1):
        assert error < 0.7 * (coarse - wanted.roll(shift, 0)).abs().mean()


def test_separate_clips_share_their_overlap(comfy_server: ComfyServer, toy_models: Path):
    run(comfy_server, {**vae(), **encoded("one", 1), **encoded("two", 2), **joined("one", "two")})

    first, second = (
        decoded(toy_models, saved(comfy_server, name)["samples"]) for name in ("one", "two")
    )
    frames = saved(comfy_server, "joined")["image"]
    assert_same_video(frames, torch.cat((first, second[1:])))


def test_a_loop_has_four_frames_for_each_of_its_latent(comfy_server: ComfyServer, toy_models: Path):
    run(comfy_server, {**vae(), **encoded("ring", 3), **joined("ring", loop=True)})

    latent = saved(comfy_server, "ring")["samples"]
    twice = decoded(toy_models, torch.cat((latent, latent), dim=2))
    frames = saved(comfy_server, "joined")["image"]
    assert_same_video(frames, twice[9:])
    assert len(frames) == 4 * latent.shape[2]


def test_a_clip_goes_on_from_the_last_frame(comfy_server: ComfyServer, toy_models: Path):
    """Its condition is that of the decoded frame as a start image, which is shown once.

    With core's VAE, which decodes in runs.
    """
    size = {"width": 640, "length": 9, "previous_latent": ("before", 0)}
    prompt: Prompt = {
        "vae": node("VAELoader", vae_name=VAE_21),
        **encoded("before", 4, count=21),
        **experts(I2V),
        **image_to_video(**LINKS, **size),
        **moe_sampler(steps=1),
        **save("size", conditioning=("size", 0)),
        **save("after", latent=("sampler", 0)),
        **joined("before", "sampler"),
    }
    run(comfy_server, prompt)

    before, after = (saved(comfy_server, name)["samples"] for name in ("before", "after"))
    frame = decoded(toy_models, before[:, :, -5:])[-1]
    video = torch.full((9, 48, 64, 3), 0.5)
    video[0] = frame
    wan_vae = wan_model.load_vae(toy_models / "vae" / VAE_21, dtype=torch.float32)
    expected = wan_vae.encode(video.movedim(-1, 0)[None] * 2 - 1, normalized=False)
    condition = saved(comfy_server, "size")
    torch.testing.assert_close(condition["concat_latent_image"], expected, atol=2e-3, rtol=0)
    assert torch.equal(condition["concat_mask"], 1 - known_frames_mask(9, 1, 0, 6, 8))
    assert after.shape == (1, 16, 3, 6, 8), "the size is that of the clip before"
    first, second = decoded(toy_models, before), decoded(toy_models, after)
    frames = saved(comfy_server, "joined")["image"]
    assert_same_video(frames, torch.cat((first, second[1:])))


def svi_2_pro(anchor: Tensor, before: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
    """The recipe of Stable Video Infinity 2.0 Pro, written down anew: one latent is carried over.

    Args:
        anchor: normalised latent (1, 16, 1, h, w) of the image.
        before: normalised latent (1, 16, T', h, w) of the clip before.
        count: latent frames of the new clip.

    Returns:
        Condition (1, 16, count, h, w), and what of it is not given, in each of the mask's four
        channels (1, 4, count, h, w).
    """
    condition, unknown = torch.zeros(2, count, *anchor.shape[-2:], 16).movedim(-1, 1)
    condition[:, 0], unknown[:, 1:] = anchor[0, :, 0], 1
    if before is not None:
        condition[:, 1] = before[0, :, -1]
    return condition[None], unknown[None, :4]


@pytest.mark.parametrize("first", [True, False])
def test_an_anchor_is_laid_out_as_svi_2_pro_is_trained(
    comfy_server: ComfyServer, toy_models: Path, first: bool
):
    """Joined, five frames of a clip that goes on are left out: the anchor, and the motion's."""
    image = node("WanDuetTestImage", seed=5, width=64, height=48, count=1, channels=3)
    previous = {} if first else {"previous_latent": ("before", 0)}
    prompt: Prompt = {
        **vae(),
        **encoded("before", 4),
        "anchor": image,
        **save("anchor", image=("anchor", 0)),
        **image_to_video(**LINKS, length=17, anchor_image=("anchor", 0), **previous),
        **save("svi", conditioning=("size", 0)),
    }
    if not first:
        prompt |= {
            **experts(I2V),
            **moe_sampler(steps=1),
            **save("after", latent=("sampler", 0)),
            **joined("before", "sampler"),
        }
    run(comfy_server, prompt)

    wan_vae = wan_model.load_vae(toy_models / "vae" / VAE_21, dtype=torch.float32)
    anchor = saved(comfy_server, "anchor")["image"].movedim(-1, 0)[None] * 2 - 1
    before = saved(comfy_server, "before")["samples"]
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (wan_vae.latent_mean, wan_vae.latent_std)
    )
    latent, unknown = svi_2_pro(wan_vae.encode(anchor), None if first else (before - mean) / std, 5)
    condition = saved(comfy_server, "svi")
    given = (condition["concat_latent_image"] - mean) / std
    torch.testing.assert_close(given, latent, atol=1e-4, rtol=0)
    assert torch.equal(condition["concat_mask"], unknown)
    if not first:
        parts = (before, saved(comfy_server, "after")["samples"])
        kept, new = (decoded(toy_models, part) for part in parts)
        assert_same_video(saved(comfy_server, "joined")["image"], torch.cat((kept, new[5:])))


def test_5b_goes_on_from_the_last_frames(comfy_server: ComfyServer, toy_models: Path):
    size = {"length": 9, "previous_latent": ("before", 0), "previous_frames": 5, "width": 640}
    prompt: Prompt = {
        **vae(VAE_22),
        **encoded("before", 6, height=64),
        **model(TI2V),
        **image_to_video(**LINKS, **size),
        **moe_sampler(model_high=("model", 0), model_low=None, steps=1),
        **save("given", latent=("size", 2)),
        **save("after", latent=("sampler", 0)),
        **joined("before", "sampler"),
    }
    run(comfy_server, prompt)

    given, before = saved(comfy_server, "given"), saved(comfy_server, "before")["samples"]
    assert given["noise_mask"][0, 0, :, 0, 0].tolist() == [0, 0, 1]
    after = saved(comfy_server, "after")["samples"]
    first, second = (decoded(toy_models, latent, VAE_22) for latent in (before, after))
    assert len(second) == 9
    frames = saved(comfy_server, "joined")["image"]
    assert_same_video(frames, torch.cat((first, second[5:])))


CASES = {
    "a start image beside the clip before": (
        {"previous_latent": ("before", 0), "start_image": ("before_images", 0)},
        {},
        "two beginnings",
    ),
    "an anchor beside a start image": (
        {"anchor_image": ("before_images", 0), "start_image": ("before_images", 0)},
        {},
        "Got one and start_image",
    ),
    "as many frames before as the video has": (
        {"previous_latent": ("before", 0), "previous_frames": 9},
        {},
        "Nothing would follow",
    ),
    "clips of two sizes": ({}, {"clip_2": ("small", 0)}, "The clips differ in size"),
    "too much overlap": ({}, {"clip_2": ("before", 0), "overlap": 9}, "need at most 8"),
    "a loop of two clips": ({}, {"clip_2": ("before", 0), "loop": True}, "Only one clip"),
}


@pytest.mark.parametrize("name", CASES)
def test_mistakes_are_explained(comfy_server: ComfyServer, name: str):
    size, join, said = CASES[name]
    prompt: Prompt = {
        **random_text(text_dim=64, tokens=20),
        **vae(),
        **encoded("before", 4),
        **encoded("small", 4, height=32),
        **image_to_video(**LINKS, length=9, **size),
        **save("mistake", latent=("size", 2)),
        **joined("before", **join),
    }
    result = comfy_server.run(prompt)

    assert result.error is not None
    assert said in str(result.error)
