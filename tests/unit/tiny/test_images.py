"""tools.make_images, and the images that it drew for the templates."""

from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tools import make_images
from tools.lake import paint_lake
from tools.make_images import CIRCLE, WORKFLOWS, draw_inputs, save_animation, video_frames
from tools.tiny_score import read_video
from tools.train_tiny.scenes import render


def test_the_templates_images_are_the_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each size of the lake is painted once."""
    lake = cache(partial(make_images.paint_lake, 0.0))
    monkeypatch.setattr(make_images, "paint_lake", lambda _, *size: lake(*size))
    draw_inputs(tmp_path)
    shipped = WORKFLOWS / "input"
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in shipped.iterdir()}

    circle = read_video(shipped / "wan22-tiny-circle.png")
    torch.testing.assert_close(circle, read_video(tmp_path / "wan22-tiny-circle.png"))
    torch.testing.assert_close(circle, render([CIRCLE], frames=1)[0], atol=0.5 / 127.5, rtol=0)


@pytest.mark.parametrize("time", [0.0, 0.3])
def test_a_mask_holds_the_boat_in_the_first_and_last_frame(time: float):
    with Image.open(WORKFLOWS / "input" / "wan22-lake-boat.png") as mask:
        kept = np.asarray(mask.getchannel("A")) > 0
    lake = np.asarray(paint_lake(time, *kept.shape[::-1])).astype(int)
    hull = (abs(lake - (70, 34, 30)) < 3).all(-1)

    assert hull.sum() > 300
    assert not (hull & kept).any()


def test_a_thumbnail_shows_every_frame(tmp_path: Path):
    video = torch.linspace(-1, 1, 17)[None, :, None, None].expand(3, 17, 32, 32)
    save_file({"video": video.contiguous()}, tmp_path / "clip.safetensors")
    save_animation(video_frames(tmp_path / "clip.safetensors"), tmp_path / "clip.jpg", 60)

    with Image.open(tmp_path / "clip.jpg") as thumbnail:
        shades = []
        for frame in range(thumbnail.n_frames):
            thumbnail.seek(frame)
            shades.append(thumbnail.convert("L").getpixel((9, 9)))
    assert len(shades) == 17
    assert shades == sorted(shades)
    assert shades[0] < 5
    assert shades[-1] > 250


def test_thumbnails_move():
    for path in WORKFLOWS.glob("*.jpg"):
        with Image.open(path) as thumbnail:
            assert thumbnail.format == "WEBP"
            assert thumbnail.n_frames > 10
        assert path.stat().st_size < 150_000
