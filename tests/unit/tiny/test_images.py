"""tools.make_images, and the images that it drew for the templates."""

from functools import cache, partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tools import make_images
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
