"""Sizes of videos, latents and images; every refusal names the values that would do."""

import pytest

from wan_model.config import OFFICIAL
from wan_model.errors import ShapeError
from wan_model.shapes import (
    LatentSize,
    check_frames,
    check_size,
    i2v_size_for_area,
    latent_frames,
    latent_size,
    ti2v_size_for_area,
    video_frames,
)

AREA_720P, AREA_480P, AREA_704P = 720 * 1280, 480 * 832, 704 * 1280

# What the official code computes: image, A14B at 720p and 480p, 5B.
OFFICIAL_SIZES = [
    ((1280, 720), (1280, 720), (832, 464), (1248, 704)),
    ((720, 1280), (720, 1280), (464, 832), (704, 1248)),
    ((1024, 1024), (960, 960), (624, 624), (960, 928)),
    ((1024, 768), (1104, 816), (720, 544), (1088, 800)),
    ((1500, 1000), (1168, 768), (768, 512), (1152, 768)),
    ((2100, 900), (1456, 624), (960, 400), (1440, 608)),
    ((832, 480), (1248, 720), (832, 464), (1248, 704)),
    ((1216, 832), (1152, 784), (752, 512), (1152, 768)),
]
IMAGES = [f"{width}x{height}" for (width, height), *_ in OFFICIAL_SIZES]


@pytest.mark.parametrize(("image", "at_720p", "at_480p", "of_5b"), OFFICIAL_SIZES, ids=IMAGES)
def test_sizes_for_an_area_are_the_official_ones(image, at_720p, at_480p, of_5b):
    width, height = image
    assert i2v_size_for_area(width, height, AREA_720P) == at_720p
    assert i2v_size_for_area(width, height, AREA_480P) == at_480p
    assert ti2v_size_for_area(width, height, AREA_704P) == of_5b


@pytest.mark.parametrize("width", range(300, 3000, 173))
@pytest.mark.parametrize("height", [333, 720, 1081, 2000])
def test_sizes_for_an_area_can_be_used(width, height):
    for of_area, area, multiple in (
        (i2v_size_for_area, AREA_720P, OFFICIAL["i2v"].size_multiple),
        (ti2v_size_for_area, AREA_704P, OFFICIAL["ti2v"].size_multiple),
    ):
        video_width, video_height = of_area(width, height, area)
        check_size(video_width, video_height, multiple)
        assert 0.85 * area < video_width * video_height <= area
        assert video_width / video_height == pytest.approx(width / height, rel=0.15)


@pytest.mark.parametrize("frames", [1, 5, 9, 77, 81, 121])
def test_frames_of_4n_plus_1(frames):
    check_frames(frames)
    assert video_frames(latent_frames(frames)) == frames


def test_latent_frames():
    assert [latent_frames(frames) for frames in (1, 5, 81, 121)] == [1, 2, 21, 31]
    assert [video_frames(count) for count in (1, 2, 21, 31)] == [1, 5, 81, 121]


@pytest.mark.parametrize(
    ("frames", "choice"),
    [
        (-4, "1"),
        (0, "1"),
        (2, "1 or 5"),
        (4, "1 or 5"),
        (6, "5 or 9"),
        (80, "77 or 81"),
        (82, "81 or 85"),
        (84, "81 or 85"),
        (120, "117 or 121"),
    ],
)
@pytest.mark.parametrize("check", [check_frames, latent_frames])
def test_other_frame_counts_are_refused(check, frames, choice):
    with pytest.raises(ShapeError) as error:
        check(frames)
    assert str(error.value) == (
        f"The number of frames cannot be used. Got {frames}, need 4n+1. Use {choice}."
    )


@pytest.mark.parametrize(("width", "height", "multiple"), [(16, 16, 16), (1280, 704, 32)])
def test_multiples_are_accepted(width, height, multiple):
    check_size(width, height, multiple)


@pytest.mark.parametrize(
    ("width", "height", "multiple", "message"),
    [
        (850, 480, 16, "The width cannot be used. Got 850, need a multiple of 16. Use 848 or 864."),
        (
            832,
            490,
            16,
            "The height cannot be used. Got 490, need a multiple of 16. Use 480 or 496.",
        ),
        (
            1280,
            720,
            32,
            "The height cannot be used. Got 720, need a multiple of 32. Use 704 or 736.",
        ),
        (15, 480, 16, "The width cannot be used. Got 15, need a multiple of 16. Use 16."),
        (832, 0, 16, "The height cannot be used. Got 0, need a multiple of 16. Use 16."),
        (-32, 480, 32, "The width cannot be used. Got -32, need a multiple of 32. Use 32."),
        (1, 1, 16, "The width cannot be used. Got 1, need a multiple of 16. Use 16."),
    ],
)
def test_other_sizes_are_refused(width, height, multiple, message):
    with pytest.raises(ShapeError) as error:
        check_size(width, height, multiple)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("video", "stride", "latent", "tokens"),
    [
        ((1280, 720, 81), 8, LatentSize(21, 90, 160), 75600),
        ((832, 480, 81), 8, LatentSize(21, 60, 104), 32760),
        ((1280, 704, 121), 16, LatentSize(31, 44, 80), 27280),
        ((16, 16, 1), 8, LatentSize(1, 2, 2), 1),
    ],
)
def test_latent_sizes_and_tokens(video, stride, latent, tokens):
    width, height, frames = video
    assert latent_size(width, height, frames, stride) == latent
    assert latent.tokens == tokens


@pytest.mark.parametrize(
    ("video", "stride", "part"),
    [
        ((1280, 720, 121), 16, "The height cannot be used. Got 720, need a multiple of 32."),
        ((1288, 720, 81), 8, "The width cannot be used. Got 1288, need a multiple of 16."),
        ((1280, 720, 80), 8, "Got 80, need 4n+1."),
    ],
)
def test_videos_that_make_no_latent_are_refused(video, stride, part):
    width, height, frames = video
    with pytest.raises(ShapeError) as error:
        latent_size(width, height, frames, stride)
    assert part in str(error.value)
