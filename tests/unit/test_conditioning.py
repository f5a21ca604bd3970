"""Masks and condition videos against the official arithmetic; images against torch and Pillow."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from wan_model.conditioning import (
    amplify_motion,
    condition_video,
    fit_bicubic,
    fit_lanczos,
    in_colour,
    known_frames_mask,
    resize_bicubic,
)
from wan_model.errors import ShapeError


def image(height: int, width: int, count: int = 1) -> torch.Tensor:
    """Smooth images of 8-bit values, as LoadImage gives them."""
    generator = torch.Generator().manual_seed(height * width + count)
    coarse = torch.rand(count, 3, 5, 7, generator=generator)
    smooth = F.interpolate(coarse, size=(height, width), mode="bilinear")
    return (smooth.movedim(1, -1) * 255).round() / 255


def by_frame(mask: torch.Tensor) -> list[list[int]]:
    """Channels of each latent frame; the mask is the same everywhere in the image."""
    assert (mask == mask[..., :1, :1]).all()
    return mask[0, :, :, 0, 0].T.int().tolist()


@pytest.mark.parametrize(
    ("frames", "first", "last", "channels"),
    [
        (9, 1, 0, [[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]),
        (9, 0, 1, [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]),
        (9, 1, 1, [[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1]]),
        (9, 5, 0, [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]]),
        (9, 3, 2, [[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1]]),
        (9, 9, 0, [[1, 1, 1, 1]] * 3),
        (9, 0, 0, [[0, 0, 0, 0]] * 3),
        (1, 1, 0, [[1, 1, 1, 1]]),
    ],
)
def test_mask_marks_given_frames(frames: int, first: int, last: int, channels: list[list[int]]):
    mask = known_frames_mask(frames, first, last, 3, 5)

    assert mask.shape == (1, 4, len(channels), 3, 5)
    assert by_frame(mask) == channels


def test_mask_of_one_image_is_the_official_one():
    frames, height, width = 81, 6, 8
    # wan/image2video.py, line by line
    official = torch.ones(1, frames, height, width)
    official[:, 1:] = 0
    official = torch.concat([official[:, :1].repeat_interleave(4, dim=1), official[:, 1:]], dim=1)
    official = official.view(1, official.shape[1] // 4, 4, height, width).transpose(1, 2)

    assert torch.equal(known_frames_mask(frames, 1, 0, height, width), official)


def test_mask_refuses_lengths_that_are_not_4n_plus_1():
    with pytest.raises(ShapeError, match="Use 5 or 9"):
        known_frames_mask(8, 1, 0, 2, 2)


def test_condition_video_is_grey_between_given_frames():
    start, end = image(4, 6, 2), image(4, 6, 1)
    video = condition_video(9, start, end)

    assert video.shape == (9, 4, 6, 3)
    assert torch.equal(video[:2], start)
    assert torch.equal(video[8:], end)
    assert (video[2:8] == 0.5).all()


def test_condition_video_of_an_end_image_alone():
    end = image(4, 6)
    video = condition_video(5, None, end)

    assert torch.equal(video[4:], end)
    assert (video[:4] == 0.5).all()


def test_bicubic_is_torch_without_antialiasing():
    images = image(97, 131, 2)
    expected = F.interpolate(
        images.movedim(-1, 1), size=(48, 64), mode="bicubic", align_corners=False, antialias=False
    ).movedim(1, -1)

    assert torch.equal(resize_bicubic(images, 64, 48), expected)


def test_bicubic_does_not_clamp():
    edge = torch.zeros(1, 8, 8, 3)
    edge[:, :, 4:] = 1
    resized = resize_bicubic(edge, 16, 16)

    assert resized.min() < 0
    assert resized.max() > 1


@pytest.mark.parametrize(("height", "width"), [(96, 128), (48, 64), (24, 32)])
def test_bicubic_of_the_videos_aspect_is_not_cut(height: int, width: int):
    images = image(height, width)

    assert torch.equal(fit_bicubic(images, 64, 48), resize_bicubic(images, 64, 48))


@pytest.mark.parametrize(
    ("height", "width", "covering"),
    [(50, 200, (192, 48)), (200, 50, (64, 256)), (30, 31, (64, 62))],
)
def test_bicubic_of_another_aspect_is_cut_in_the_centre(
    height: int, width: int, covering: tuple[int, int]
):
    images = image(height, width)
    whole = resize_bicubic(images, *covering)
    left, top = (covering[0] - 64) // 2, (covering[1] - 48) // 2

    assert torch.equal(fit_bicubic(images, 64, 48), whole[:, top : top + 48, left : left + 64])


def official_lanczos(pixels: np.ndarray, width: int, height: int) -> torch.Tensor:
    """What wan/textimage2video.py does to an image, in [0, 1]."""
    image = Image.fromarray(pixels)
    scale = max(width / image.width, height / image.height)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.LANCZOS)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    image = image.crop((left, top, left + width, top + height))
    return torch.from_numpy(np.array(image)).float() / 255


@pytest.mark.parametrize(
    ("height", "width"), [(64, 96), (33, 100), (100, 33), (768, 1024), (720, 1280), (31, 47)]
)
def test_lanczos_is_the_official_one(height: int, width: int):
    images = image(height, width, 2)
    fitted = fit_lanczos(images, 96, 64)

    for given, result in zip(images, fitted, strict=True):
        pixels = (given * 255).round().to(torch.uint8).numpy()
        assert torch.equal(result, official_lanczos(pixels, 96, 64))


@pytest.mark.parametrize(("channels", "taken"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (4, [0, 1, 2])])
def test_images_of_any_number_of_channels_get_three(channels: int, taken: list[int]):
    images = torch.rand(2, 3, 4, channels)

    assert in_colour(images).equal(images[..., taken])
    assert in_colour(images.movedim(-1, 1), 1).equal(images[..., taken].movedim(-1, 1))


@pytest.mark.parametrize("end", [0, 1])
def test_motion_is_the_scaled_difference_from_the_first_frame(end: int):
    latent = torch.randn(2, 16, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    latent[0, 0, 2, 0, 0] = 5.9
    given = [0, 4] if end else [0]
    expected = latent.double().numpy().copy()
    for clip in expected:
        first = clip[:, 0].copy()
        for frame in set(range(5)) - set(given):
            difference = clip[:, frame] - first
            level = difference.mean()
            clip[:, frame] = np.clip(first + level + 1.5 * (difference - level), -6, 6)

    result = amplify_motion(latent, known_frames_mask(17, 1, end, 3, 4), 1.5)

    assert result.max() == 6
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-5)
    assert torch.equal(result[:, :, given], latent[:, :, given])
    assert torch.equal(amplify_motion(latent, known_frames_mask(17, 1, end, 3, 4), 1), latent)
