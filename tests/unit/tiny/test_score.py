"""The scorer reads what is there, also when it is blurred, and accepts nothing else."""

import math
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tools.tiny_score import (
    Expected,
    Score,
    compare,
    detect,
    expect,
    first_frame_psnr,
    psnr,
    rates,
    score,
    table,
)
from tools.tiny_score.accuracy import DAMAGE, truth_score
from tools.tiny_score.components import label
from tools.train_tiny.scenes import (
    MOTIONS,
    OBJECT_COLOURS,
    SHAPES,
    Background,
    Path,
    Prompt,
    Scene,
    Thing,
    prompt_scene,
    render,
    sample_scene,
    score_prompts,
)

WORST = "blur 1.5, contrast 0.85, noise 0.1"
GREY = Background("plain", "grey", "grey")


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@cache
def prompt_clips() -> tuple[tuple[Prompt, Tensor], ...]:
    return tuple((p, render([prompt_scene(p)])[0]) for p in score_prompts()[::9])


def test_the_truth_is_read():
    """Of clips that are as bad as a small VAE might make them."""
    scenes = [sample_scene(11, index, objects=1, camera=False) for index in range(12)]
    found = rates([truth_score(scene, WORST) for scene in scenes])
    assert min(found.colour, found.shape, found.motion, found.count) >= 0.98, found


@pytest.mark.parametrize("damage", [one for one in DAMAGE if one != WORST])
def test_every_damage_leaves_the_prompts_readable(damage: str):
    for prompt, clip in prompt_clips()[::3]:
        assert score(DAMAGE[damage](clip), prompt).ok, prompt


def test_two_objects_and_a_moving_camera_are_read():
    scenes = [sample_scene(12, index, objects=2) for index in range(5)]
    assert rates([truth_score(scene, "clean", frames=21) for scene in scenes]).all == 1


def test_wrong_prompts_are_rejected():
    for prompt, clip in prompt_clips():
        found = detect(clip)
        colour, shape, motion = prompt.colour, prompt.shape, prompt.motion
        for other in set(OBJECT_COLOURS) - {colour}:
            result = compare(found, (Expected(other, shape, motion),))
            assert not result.colour_ok
            assert result.shape_ok
        for other in set(SHAPES) - {shape}:
            result = compare(found, (Expected(colour, other, motion),))
            assert not result.shape_ok
            assert result.motion_ok
        for other in set(MOTIONS) - {motion}:
            result = compare(found, (Expected(colour, shape, other),))
            assert not result.motion_ok
            assert result.colour_ok


def test_the_number_of_objects_must_be_right():
    things = tuple(Thing("red", "circle", "still", Path(), x, 0, 0.12, 0) for x in (-0.2, 0.2))
    one, two = Scene(things[:1], GREY), Scene(things, GREY)
    assert not score(render([two])[0], one).count_ok
    missing = score(render([one])[0], two)
    assert not missing.count_ok
    assert not missing.colour_ok


@pytest.mark.parametrize(
    "video",
    [
        random(3, 17, 128, 128),
        0.1 * random(3, 17, 128, 128),
        F.interpolate(random(1, 3, 5, 8, 8), (17, 128, 128), mode="trilinear")[0],
        F.interpolate(random(1, 3, 1, 6, 6), (17, 128, 128), mode="trilinear")[0],
        F.interpolate(random(1, 3, 5, 16, 16), (17, 128, 128))[0],
        torch.zeros(3, 17, 128, 128),
        torch.full((3, 17, 128, 128), math.nan),
    ],
    ids=["noise", "weak noise", "clouds", "still clouds", "blocks", "grey", "nan"],
)
def test_videos_of_nothing_are_rejected(video: Tensor):
    found = detect(video)
    assert not any(compare(found, expect(prompt)).ok for prompt in score_prompts())


def test_strange_shapes_are_no_shape():
    clip = -torch.ones(3, 17, 128, 128)
    clip[0, :, 50:64, 30:90] = 0.8
    (bar,) = detect(clip)
    assert (bar.colour, bar.shape, bar.motion.name) == ("red", None, "still")


def test_an_object_that_is_seldom_seen_does_not_count():
    clip = render([Scene((), GREY), prompt_scene(score_prompts()[0])])
    assert not detect(torch.cat([clip[0, :, :8], clip[1, :, 8:]], dim=1))


def test_speed_and_turn_are_measured():
    path = Path(dx=0.375, spin=math.radians(160))
    scene = Scene((Thing("red", "star", "right", path, -0.2, 0, 0.2, 0),), GREY)
    (star,) = detect(render([scene])[0])
    assert star.motion.speed == pytest.approx(0.375 / 16, rel=0.05)
    assert math.degrees(star.motion.turn) == pytest.approx(160, abs=5)


def test_a_video_that_cannot_be_read_is_refused():
    with pytest.raises(ValueError, match="H = W"):
        detect(torch.zeros(3, 17, 128, 96))


def test_regions_are_numbered():
    snake = torch.zeros(1, 9, 9, dtype=torch.bool)
    snake[0, ::2] = True
    snake[0, 1::4, 8] = snake[0, 3::4, 0] = True
    assert len(label(snake).unique()) == 2
    apart = torch.zeros(2, 5, 5, dtype=torch.bool)
    apart[0, 0, 0] = apart[0, 1, 1] = apart[0, 4, 4] = apart[1, 0, 0] = True
    assert len(label(apart).unique()) == 4


def test_psnr():
    video = torch.zeros(3, 5, 8, 8)
    assert psnr(video + 0.2, video) == pytest.approx(20)
    assert psnr(video, video) == math.inf
    assert first_frame_psnr(video + 0.02, video[:, 0]) == pytest.approx(40, abs=1e-3)


def test_table():
    good, bad = Score(True, True, True, True), Score(True, False, True, True)
    prompts = score_prompts()
    text = table([(prompts[0], good), (prompts[0], bad), (prompts[-1], good)])
    assert "| all | 3 | 100 % | 67 % | 100 % | 100 % | 67 % |" in text
    assert "| orbit | 1 | 100 % | 100 % | 100 % | 100 % | 100 % |" in text
