"""What images become for A14B models: mask and latent, up to the channels the model is given."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import wan_model
from wan_model.conditioning import amplify_motion, fit_bicubic, known_frames_mask, resize_bicubic
from wan_model.shapes import i2v_size_for_area

from .graphs import (
    I2V,
    VAE_21,
    Prompt,
    experts,
    image_to_video,
    moe_sampler,
    node,
    random_text,
    save,
    vae,
)
from .server import ComfyServer

pytestmark = pytest.mark.comfy

TEXT = random_text(text_dim=64, tokens=20)
LINKS = {"positive": ("positive", 0), "negative": ("negative", 0)}
KEEP_ASPECT = "keep aspect (official)"


def random_image(node_id: str, **options: int) -> Prompt:
    """Random images: (node_id, 0). Saved too, as NODE_ID.safetensors."""
    defaults = {"seed": len(node_id), "width": 64, "height": 48, "count": 1, "channels": 3}
    return {
        node_id: node("WanDuetTestImage", **{**defaults, **options}),
        **save(node_id, image=(node_id, 0)),
    }


def conditioned(name: str, **options: object) -> Prompt:
    """Our node on random text; saves its latent and both conditionings."""
    return {
        **TEXT,
        **image_to_video(**LINKS, **options),
        **save(f"{name}_positive", conditioning=("size", 0), latent=("size", 2)),
        **save(f"{name}_negative", conditioning=("size", 1)),
    }


def run(server: ComfyServer, prompt: Prompt) -> None:
    """Runs a prompt that must succeed."""
    result = server.run(prompt)
    assert result.status == "success", result.error


def saved(server: ComfyServer, name: str) -> dict[str, Tensor]:
    return load_file(server.output / f"{name}.safetensors")


def image(server: ComfyServer, name: str) -> Tensor:
    return saved(server, name)["image"][..., :3]


def official_latent(models: Path, video: Tensor, *, normalized: bool) -> Tensor:
    """The library's latent of a video (T, H, W, 3) in [0, 1], grey where nothing is given."""
    wan_vae = wan_model.load_vae(models / "vae" / VAE_21, dtype=torch.float32)
    frames = (video.movedim(-1, 0)[None] - 0.5) / 0.5
    with torch.inference_mode():
        return wan_vae.encode(frames, normalized=normalized)


def with_grey(length: int, start: Tensor | None = None, end: Tensor | None = None) -> Tensor:
    """The condition video, frame by frame."""
    shape = (start if start is not None else end)[0].shape  # type: ignore[index]
    first = [] if start is None else list(start)
    last = [] if end is None else list(end)
    grey = [torch.full(shape, 0.5)] * (length - len(first) - len(last))
    return torch.stack([*first, *grey, *last])


def assert_near(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance


@pytest.mark.parametrize(("first", "last"), [(1, 0), (0, 1), (1, 1), (3, 0), (5, 2), (9, 0)])
def test_images_become_mask_and_latent(
    comfy_server: ComfyServer, toy_models: Path, first: int, last: int
):
    prompt: Prompt = {**vae()}
    links: dict[str, tuple[str, int]] = {}
    for name, count in (("start", first), ("end", last)):
        if count:
            prompt |= random_image(name, count=count)
            links[f"{name}_image"] = (name, 0)
    run(comfy_server, prompt | conditioned("images", length=9, **links))

    given = {name: image(comfy_server, name) for name, _ in links.values()}
    raw = official_latent(toy_models, with_grey(9, **given), normalized=False)
    positive = saved(comfy_server, "images_positive")
    negative = saved(comfy_server, "images_negative")
    for conditioning in (positive, negative):
        assert_near(conditioning["concat_latent_image"], raw)
        mask = 1 - known_frames_mask(9, first, last, 6, 8)
        assert torch.equal(conditioning["concat_mask"], mask)
    assert not torch.equal(positive["conditioning"], negative["conditioning"])
    assert torch.equal(positive["samples"], torch.zeros(1, 16, 3, 6, 8))
    assert "noise_mask" not in positive


def test_motion_is_amplified_in_the_frames_that_are_not_given(
    comfy_server: ComfyServer, toy_models: Path
):
    options = {"start_image": ("start", 0), "length": 9, "motion_amplitude": 1.5}
    run(comfy_server, {**vae(), **random_image("start"), **conditioned("amplified", **options)})

    raw = official_latent(
        toy_models, with_grey(9, start=image(comfy_server, "start")), normalized=False
    )
    expected = amplify_motion(raw, known_frames_mask(9, 1, 0, 6, 8), 1.5)
    actual = saved(comfy_server, "amplified_positive")["concat_latent_image"]
    assert_near(actual, expected)
    assert (actual - raw)[:, :, 1:].abs().max() > 0.01


def recorded_i2v(seed: int, **options: object) -> Prompt:
    """A run of both toy experts whose inputs are recorded as i2v_*.safetensors."""
    recorders = {
        f"record_{i}": node("WanDuetTestRecordModel", model=("experts", i), name="i2v")
        for i in (0, 1)
    }
    steps = {"seed": seed, "steps": 3, "cfg_high": 2.0, "cfg_low": 2.0}
    return {
        **experts(I2V),
        **recorders,
        **vae(),
        **random_image("start"),
        **random_image("end"),
        **conditioned("i2v_out", start_image=("start", 0), end_image=("end", 0), **options),
        **moe_sampler("sampler", model_high=("record_0", 0), model_low=("record_1", 0), **steps),
        **save("i2v_result", latent=("sampler", 0)),
    }


@pytest.mark.parametrize("batch_size", [1, 2])
def test_model_is_given_mask_then_normalised_latent(
    comfy_server: ComfyServer, toy_models: Path, batch_size: int
):
    for seed in (1, 2):  # the second run finds the conditioning in the cache
        for old in comfy_server.output.glob("i2v_[0-9]*.safetensors"):
            old.unlink()
        run(comfy_server, recorded_i2v(seed, batch_size=batch_size))

        video = with_grey(5, image(comfy_server, "start"), image(comfy_server, "end"))
        latent = official_latent(toy_models, video, normalized=True)
        y = torch.cat((known_frames_mask(5, 1, 1, 6, 8), latent), dim=1)
        calls = [load_file(f) for f in comfy_server.output.glob("i2v_[0-9]*.safetensors")]
        assert len(calls) >= 3
        for call in calls:
            rows = call["input"].shape[0]
            assert rows % batch_size == 0
            assert_near(call["c_concat"], y.expand(rows, -1, -1, -1, -1))
        result = saved(comfy_server, "i2v_result")["samples"]
        assert result.shape == (batch_size, 16, 2, 6, 8)


def test_same_run_twice_is_the_same(comfy_server: ComfyServer):
    results = []
    for _ in range(2):
        run(comfy_server, recorded_i2v(5))
        results.append(saved(comfy_server, "i2v_result")["samples"])
        run(comfy_server, recorded_i2v(6))

    assert torch.equal(*results)


def test_alpha_channel_is_dropped(comfy_server: ComfyServer, toy_models: Path):
    prompt = {
        **vae(),
        **random_image("rgba", channels=4, width=80, height=50),
        **conditioned("rgba_out", start_image=("rgba", 0)),
    }
    run(comfy_server, prompt)

    assert saved(comfy_server, "rgba")["image"].shape[-1] == 4
    fitted = fit_bicubic(image(comfy_server, "rgba"), 64, 48)
    raw = official_latent(toy_models, with_grey(5, fitted), normalized=False)
    assert_near(saved(comfy_server, "rgba_out_positive")["concat_latent_image"], raw)


@pytest.mark.parametrize(
    ("width", "height"), [(1280, 720), (720, 1280), (500, 500), (2100, 900), (1216, 832)]
)
def test_keeping_the_aspect_is_official(
    comfy_server: ComfyServer, toy_models: Path, width: int, height: int
):
    prompt = {
        **vae(),
        **random_image("start", width=width, height=height),
        **conditioned(
            "aspect",
            start_image=("start", 0),
            size_mode=KEEP_ASPECT,
            width=208,
            height=112,
            length=1,
        ),
    }
    run(comfy_server, prompt)

    out_width, out_height = i2v_size_for_area(width, height, 208 * 112)
    stretched = resize_bicubic(image(comfy_server, "start"), out_width, out_height)
    raw = official_latent(toy_models, stretched, normalized=False)
    positive = saved(comfy_server, "aspect_positive")
    assert positive["samples"].shape[-2:] == (out_height // 8, out_width // 8)
    assert_near(positive["concat_latent_image"], raw)
    assert f"{out_width} x {out_height}, 1 frames" in comfy_server.log()


def test_keeping_the_aspect_crops_an_end_image_of_another(
    comfy_server: ComfyServer, toy_models: Path
):
    prompt = {
        **vae(),
        **random_image("start", width=100, height=70),
        **random_image("end", width=60, height=90),
        **conditioned(
            "ends",
            start_image=("start", 0),
            end_image=("end", 0),
            size_mode=KEEP_ASPECT,
        ),
    }
    run(comfy_server, prompt)

    size = i2v_size_for_area(100, 70, 64 * 48)
    start = resize_bicubic(image(comfy_server, "start"), *size)
    end = fit_bicubic(image(comfy_server, "end"), *size)
    raw = official_latent(toy_models, with_grey(5, start, end), normalized=False)
    assert_near(saved(comfy_server, "ends_positive")["concat_latent_image"], raw)


def test_text_alone_conditions_nothing(comfy_server: ComfyServer):
    run(comfy_server, {**vae(), **conditioned("plain", length=9, batch_size=3)})

    positive = saved(comfy_server, "plain_positive")
    assert positive.keys() == {"samples", "conditioning"}
    assert torch.equal(positive["samples"], torch.zeros(3, 16, 3, 6, 8))


def test_stock_vae_gives_the_same(comfy_server: ComfyServer, toy_models: Path):
    prompt = {
        "vae": node("VAELoader", vae_name=VAE_21),
        **random_image("start"),
        **conditioned("stock_vae", start_image=("start", 0)),
    }
    run(comfy_server, prompt)

    video = with_grey(5, image(comfy_server, "start"))
    raw = official_latent(toy_models, video, normalized=False)
    assert_near(saved(comfy_server, "stock_vae_positive")["concat_latent_image"], raw, 1e-4)


@pytest.mark.parametrize(
    ("stock", "images"),
    [
        ("WanImageToVideo", {"start": 1}),
        ("WanImageToVideo", {"start": 5}),
        ("WanFirstLastFrameToVideo", {"start": 1, "end": 1}),
        ("WanFirstLastFrameToVideo", {"end": 1}),
        ("WanFirstLastFrameToVideo", {"start": 2, "end": 3}),
    ],
)
def test_images_of_the_exact_size_agree_with_stock_nodes(
    comfy_server: ComfyServer, stock: str, images: dict[str, int]
):
    links = {f"{name}_image": (name, 0) for name in images}
    prompt: Prompt = {**vae(), **conditioned("ours", length=9, **links)}
    for name, count in images.items():
        prompt |= random_image(name, count=count)
    prompt["stock"] = {**prompt["size"], "class_type": stock}
    prompt |= save("theirs", conditioning=("stock", 0), latent=("stock", 2))
    run(comfy_server, prompt)

    ours, theirs = saved(comfy_server, "ours_positive"), saved(comfy_server, "theirs")
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours["samples"], theirs["samples"])
    assert_near(ours["concat_latent_image"], theirs["concat_latent_image"], 1e-6)
    assert torch.equal(ours["concat_mask"], theirs["concat_mask"].expand(-1, 4, -1, -1, -1))
