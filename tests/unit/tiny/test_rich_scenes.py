"""Scenes about one thing more: they keep to the frame, captions say it, and the scorer reads it."""

import math
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from tools.tiny_score import score
from tools.tiny_score.accuracy import DAMAGE
from tools.tiny_score.expect import expect
from tools.tiny_score.rich import Reading, read, shows_kind
from tools.tiny_score.score import assign
from tools.train_tiny.config import ClipRecipe
from tools.train_tiny.data import Clips
from tools.train_tiny.scenes import (
    CAMERAS,
    KINDS,
    LIGHTS,
    OBJECT_COLOURS,
    Camera,
    Light,
    Path,
    Scene,
    Stream,
    caption,
    is_novel,
    prompt_scene,
    render,
    rich_prompts,
    sample_rich_scene,
    sample_scene,
    times,
    track,
)
from tools.train_tiny.scenes.phrases import pace
from tools.train_tiny.scenes.rich import SHARES, opposite
from tools.train_tiny.scenes.sample import sample_hard_scene

RICH = KINDS[1:]
WORST = "blur 1.5, contrast 0.85, noise 0.1"

SAID = {
    "pace": ("slowly", "gently", "quickly", "fast"),
    "sequence": ("then",),
    "follow": ("follow", "chas"),
    "pass": ("pass each other", "past"),
    "camera": ("the camera",),
    "light": ("it gets", "the light"),
}


def scenes_of(kind: str, count: int, split: str = "train") -> list[Scene]:
    return [sample_rich_scene(3, index, split, kind=kind) for index in range(count)]


def test_every_kind_has_its_share():
    counts = Counter(sample_rich_scene(1, index).kind for index in range(400))
    assert all(abs(counts[kind] / 400 - share) < 0.06 for kind, share in SHARES.items())
    assert sum(SHARES.values()) == pytest.approx(1)


def test_the_recipe_says_which_scenes_are_drawn():
    cpu = torch.device("cpu")
    drawn = {"simple": sample_scene, "hard": sample_hard_scene, "rich": sample_rich_scene}
    for name, sample in drawn.items():
        clips = Clips(ClipRecipe(scenes=name), 5, "train", cpu)
        assert clips.scenes(40, 9) == [sample(5, index, "train") for index in range(40, 49)]
    with pytest.raises(ValueError, match="Got 'poor', need one of: simple, hard, rich"):
        ClipRecipe(scenes="poor")


@pytest.mark.parametrize("kind", RICH)
def test_objects_stay_in_the_frame_and_apart(kind: str):
    for scene in scenes_of(kind, 40):
        tracks = [track(thing, scene.camera, times(41)) for thing in scene.things]
        for x, y, radius, _ in (rows.T for rows in tracks):
            assert (np.maximum(abs(x), abs(y)) + radius).max() < 0.5
            assert 2 * radius.min() >= 28 / 128 - 1e-9
        if len(tracks) == 2:
            gap = np.hypot(*(tracks[0] - tracks[1]).T[:2]) - tracks[0][:, 2] - tracks[1][:, 2]
            assert gap.min() > 0


@pytest.mark.parametrize("kind", RICH)
def test_captions_say_what_it_is_about(kind: str):
    for index, scene in enumerate(scenes_of(kind, 30)):
        text = caption(scene, Stream(index)).lower()
        assert any(words in text for words in SAID[kind]), text


def test_stripes_lie_across_the_cameras_way():
    """Diagonal ones would look the same with a way to the side and with one up or down."""
    scenes = [s for s in scenes_of("camera", 40) if s.background.kind == "stripes"]
    seen = {(s.camera.motion, round(s.background.angle / math.pi, 3)) for s in scenes}
    assert {("left", 0.0), ("up", 0.5)} <= seen
    assert seen <= {(way, 0.5 if way in ("up", "down") else 0.0) for way in CAMERAS}


@pytest.mark.parametrize("split", ["train", "novel"])
def test_novel_combinations_are_held_out(split: str):
    for kind in RICH:
        for thing in (t for scene in scenes_of(kind, 20, split) for t in scene.things):
            motions = {thing.motion, thing.then} - {""}
            novel = any(is_novel(thing.colour, thing.shape, motion) for motion in motions)
            assert novel == (split == "novel")


def test_light_changes_all_colours():
    scene = scenes_of("light", 1)[0]
    lit = replace(scene, light=Light("warm", last=(1.0, 0.5, 0.25)))
    plain = render([replace(scene, light=Light())], 3, 32)[0] / 2 + 0.5
    shown = render([lit], 3, 32)[0] / 2 + 0.5
    factors = torch.tensor([[1, 1, 1], [1, 0.75, 0.5], [1, 0.625, 0.25]])  # of each frame
    assert torch.allclose(shown, plain * factors[..., None, None], atol=1e-5)


@cache
def readings(kind: str) -> list[tuple[Scene, Reading]]:
    """Two clips as bad as a small VAE might make them, and what is found in them."""
    scenes = scenes_of(kind, 2, "val")
    return [(scene, read(DAMAGE[WORST](render([scene])[0]), kind)) for scene in scenes]


def others(scene: Scene) -> list[Scene]:
    """Returns scenes of the same objects that are about something else."""
    first, *rest = scene.things
    match scene.kind:
        case "camera":
            motions = set(CAMERAS) - {scene.camera.motion}
            return [replace(scene, camera=Camera(motion)) for motion in motions]
        case "light":
            motions = set(LIGHTS) - {scene.light.motion}
            return [replace(scene, light=Light(motion)) for motion in motions]
        case "pace":
            spin = math.radians({"slow": 250, "fast": 110}[pace(first)])
            return [replace(scene, things=(replace(first, motion="rotate", path=Path(spin=spin)),))]
        case "sequence":
            turned = replace(first, motion=first.then, then=first.motion)
            return [replace(scene, things=(turned,))]
        case "pass":
            back = tuple(replace(thing, motion=opposite(thing.motion)) for thing in scene.things)
            return [replace(scene, things=back)]
    return [replace(scene, things=(*rest, first))]


@pytest.mark.parametrize("kind", RICH)
def test_the_truth_is_read_and_nothing_else(kind: str):
    for scene, reading in readings(kind):
        chosen = assign(reading.found, expect(scene))
        assert shows_kind(reading, scene, chosen), caption(scene, Stream(0))
        for other in others(scene):
            chosen = assign(reading.found, expect(other))
            assert not shows_kind(reading, other, chosen), other


def test_noise_shows_nothing():
    noise = torch.randn(3, 17, 64, 64, generator=torch.Generator().manual_seed(0))
    for kind in RICH:
        assert not score(noise, scenes_of(kind, 1)[0]).ok
    assert read(noise, "camera").camera == "still"
    assert read(noise, "light").light == "steady"


def test_rich_prompts_cover_everything_and_describe_their_scenes():
    prompts = rich_prompts()
    assert len({prompt.text for prompt in prompts}) == len(prompts) == 56
    assert set(RICH) == {prompt.scene.kind for prompt in prompts}
    seen = {thing.colour for prompt in prompts for thing in prompt.scene.things}
    assert seen == set(OBJECT_COLOURS)
    for prompt in prompts:
        assert any(words in prompt.text for words in SAID[prompt.scene.kind])
        for thing in prompt.scene.things:
            assert f"{thing.colour} {thing.shape}" in prompt.text
    assert score(render([prompt_scene(prompts[22])])[0], prompts[22]).ok
