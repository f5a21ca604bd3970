"""Pixels: deterministic, the same on every path, and where the truth says."""

import math

import pytest
import torch

from tools.train_tiny.scenes import (
    OBJECT_COLOURS,
    SHAPES,
    Background,
    Camera,
    Path,
    Scene,
    Thing,
    render,
    sample_scene,
)
from tools.train_tiny.scenes.sheet import contact_sheet

BLACK = Background("plain", "black", "black")


def one(shape: str, **changes) -> Scene:
    """A white object on black."""
    values = {"path": Path(), "x": 0.0, "y": 0.0, "radius": 0.2, "angle": 0.3} | changes
    return Scene((Thing("white", shape, "still", **values),), BLACK)


def area(shape: str) -> float:
    """Area of a shape of circumradius 1, from its corners."""
    outline = SHAPES[shape]
    if not outline.folds:
        return math.pi * (1 - outline.hole**2)
    return outline.folds * outline.inner * math.sin(math.pi / outline.folds)


@pytest.mark.parametrize("shape", SHAPES)
def test_area_is_that_of_the_shape(shape: str):
    low, high = 2 * torch.tensor([0.04, 0.97]) - 1
    covered = (render([one(shape)], 1)[0, 0, 0] - low) / (high - low)
    assert covered.min() >= -1e-6
    assert covered.max() <= 1 + 1e-6
    assert float(covered.mean()) == pytest.approx(area(shape) * 0.2**2, rel=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_half_covered_pixels_lie_on_the_outline(shape: str):
    small, large = (render([one(shape)], 1, size)[0, 0, 0] for size in (64, 128))
    pooled = torch.nn.functional.avg_pool2d(large[None], 2)[0]
    assert (small - pooled).abs().max() < 0.9  # of a range of 2, at the corners
    assert (small - pooled).abs().mean() < 0.006


def test_objects_move_as_the_scene_says():
    scene = one("circle", path=Path(dx=0.25, dy=-0.25), x=-0.1, y=0.2)
    bright = render([scene], 5)[0, 0] + 0.92
    axis = (torch.arange(128) + 0.5) / 128 - 0.5
    total = bright.sum(dim=(1, 2))
    x, y = (bright.sum(1) @ axis) / total, (bright.sum(2) @ axis) / total
    assert torch.allclose(x, torch.linspace(-0.1, 0.15, 5), atol=2e-3)
    assert torch.allclose(y, torch.linspace(0.2, -0.05, 5), atol=2e-3)


def test_objects_have_their_colour():
    for colour, rgb in OBJECT_COLOURS.items():
        scene = Scene((Thing(colour, "square", "still", Path(), 0, 0, 0.2, 0),), BLACK)
        middle = render([scene], 1)[0, :, 0, 64, 64]
        assert torch.allclose(middle, 2 * torch.tensor(rgb) - 1, atol=1e-6)


def test_a_batch_equals_its_clips_on_their_own():
    scenes = [sample_scene(4, index) for index in range(24)]
    single, batch = render(scenes, 5), render(scenes, 5, chunk=24)
    assert single.shape == (24, 3, 5, 128, 128)
    assert single.abs().max() <= 1
    assert (single - batch).abs().max() < 1e-3


def test_frames_do_not_depend_on_their_number():
    scenes = [sample_scene(4, index) for index in range(12)]
    assert torch.allclose(render(scenes, 17)[:, :, ::4], render(scenes, 5), atol=1e-5)
    assert torch.allclose(render(scenes, 1)[:, :, 0], render(scenes, 17)[:, :, 0], atol=1e-5)


def test_the_camera_moves_the_background():
    stripes = Background("stripes", "white", "grey", angle=0.0, wavelength=0.25)
    still = render([Scene((), stripes)], 2)[0, 0]
    panned = render([Scene((), stripes, Camera("right", 0.125))], 2)[0, 0]
    assert torch.equal(still[0], still[1])
    assert torch.allclose(panned[1, :, :112], panned[0, :, 16:], atol=1e-4)


def test_nothing_stays_on_the_cpu():
    scenes = [sample_scene(4, index) for index in range(8)]
    assert render(scenes, 5, device="meta").device.type == "meta"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_renders_the_same():
    scenes = [sample_scene(4, index) for index in range(24)]
    assert (render(scenes, device="cuda").cpu() - render(scenes)).abs().max() < 1e-3


def test_contact_sheet_is_written(tmp_path):
    videos = render([sample_scene(4, index) for index in range(3)], 5, 32)
    contact_sheet(videos, ["a", "b", "c"], tmp_path / "sheet.png", frames=3)
    assert (tmp_path / "sheet.png").stat().st_size > 500
