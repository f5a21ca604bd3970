"""Scenes: the same for ever, all of them measurable."""

from itertools import combinations

import numpy as np
import pytest

from tools.train_tiny.scenes import (
    BACKGROUND_COLOURS,
    BACKGROUNDS,
    CAMERAS,
    DIRECTIONS,
    MOTIONS,
    OBJECT_COLOURS,
    SAMPLERS,
    SHAPES,
    Camera,
    Stream,
    is_novel,
    sample_scene,
    times,
    track,
)
from tools.train_tiny.scenes.palette import contrast

SCENES = [sample_scene(1, index) for index in range(600)]
THINGS = [(thing, scene) for scene in SCENES for thing in scene.things]


def test_numbers_never_change():
    stream = Stream(1, "train", 2)
    numbers = [stream.uniform() for _ in range(3)]
    assert numbers == [0.5956880064079018, 0.7322853336804914, 0.8381565993325166]


def test_numbers_are_uniform_and_unrelated():
    first = np.array([Stream(5, "train", index).uniform() for index in range(4000)])
    stream = Stream(5)
    series = np.array([stream.uniform() for _ in range(4000)])
    for numbers in (first, series):
        counts, _ = np.histogram(numbers, bins=10, range=(0, 1))
        assert abs(counts - 400).max() < 90
        assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.05


def test_a_scene_depends_on_its_key_only():
    assert sample_scene(1, 5) == SCENES[5]
    others = [sample_scene(2, 5), sample_scene(1, 6), sample_scene(1, 5, "val")]
    assert SCENES[5] not in others


def test_everything_occurs():
    assert {thing.motion for thing, _ in THINGS} == set(MOTIONS)
    assert {thing.colour for thing, _ in THINGS} == set(OBJECT_COLOURS)
    assert {thing.shape for thing, _ in THINGS} == set(SHAPES)
    assert {scene.camera.motion for scene in SCENES} == set(CAMERAS)
    assert {scene.background.kind for scene in SCENES} == set(BACKGROUNDS)
    assert {len(scene.things) for scene in SCENES} == {1, 2}


def test_hard_scenes_show_more_of_what_is_hard_and_validate_as_simple_ones():
    sample = SAMPLERS["hard"]
    things = [thing for index in range(600) for thing in sample(1, index, "train").things]
    assert {thing.shape for thing in things} == set(SHAPES)
    assert {thing.motion for thing in things} == set(MOTIONS)
    still = [thing.shape for thing in things if thing.motion != "rotate"]
    assert 0.43 < still.count("star") / len(still) < 0.57
    motions = [thing.motion for thing in things]
    assert 0.27 < (motions.count("rotate") + motions.count("orbit")) / len(motions) < 0.4
    assert not any(is_novel(thing.colour, thing.shape, thing.motion) for thing in things)
    for split in ("val", "novel"):
        assert [sample(1, n, split) for n in range(9)] == [
            sample_scene(1, n, split) for n in range(9)
        ]


def test_objects_stay_in_the_frame_and_have_a_fair_size():
    for thing, scene in THINGS:
        x, y, radius, _ = track(thing, scene.camera, times(41)).T
        assert (np.maximum(abs(x), abs(y)) + radius).max() < 0.5, thing
        assert 2 * radius.min() >= 28 / 128 - 1e-9, thing
        assert 2 * radius.max() <= 56 / 128 + 1e-9, thing


def test_motions_can_be_measured():
    for thing, _ in THINGS:
        x, y, radius, angle = track(thing, Camera(), times(41)).T
        ways = (np.ptp(x), np.ptp(y)) if thing.motion == "orbit" else ()
        if thing.motion in DIRECTIONS:
            signs = DIRECTIONS[thing.motion]
            ends = (x[-1] - x[0], y[-1] - y[0])
            assert tuple(np.sign(np.round(ends, 6))) == signs
            ways = tuple(abs(way) for way, sign in zip(ends, signs, strict=True) if sign)
        if thing.motion == "bounce":
            ways = (np.ptp(y),)
        assert all(way >= 24 / 128 for way in ways)
        assert (np.ptp(angle) >= np.radians(110)) == (thing.motion == "rotate")
        growth = {"grow": 1, "shrink": -1}.get(thing.motion, 0)
        assert np.log(radius[-1] / radius[0]) * growth >= abs(growth) * np.log(1.55) - 1e-9


def test_two_objects_differ_in_colour_and_never_touch():
    pairs = [scene for scene in SCENES if len(scene.things) == 2]
    for scene in pairs:
        first, second = (track(thing, scene.camera, times(41)) for thing in scene.things)
        gap = np.hypot(*(first - second).T[:2]) - first[:, 2] - second[:, 2]
        assert gap.min() > 0
        assert scene.things[0].colour != scene.things[1].colour


def test_objects_stand_out_from_the_background():
    for thing, scene in THINGS:
        names = (scene.background.first, scene.background.second)
        mixed = [BACKGROUND_COLOURS[name] for name in names]
        assert contrast(OBJECT_COLOURS[thing.colour], *mixed) >= 0.15


def test_palette_colours_are_far_apart():
    for first, second in combinations(OBJECT_COLOURS.values(), 2):
        assert contrast(first, second) > 0.17


@pytest.mark.parametrize("split", ["train", "val", "novel"])
def test_novel_combinations_are_held_out(split: str):
    for index in range(100):
        for thing in sample_scene(3, index, split).things:
            assert is_novel(thing.colour, thing.shape, thing.motion) == (split == "novel")
