"""tools.make_images, and the image that it drew for the templates."""

from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from tools.make_images import CIRCLE, WORKFLOWS, draw_circle, draw_thumbnail
from tools.tiny_score import read_video
from tools.train_tiny.scenes import render


def test_the_templates_image_is_the_scene(tmp_path: Path):
    draw_circle(tmp_path / "circle.png")
    shipped = read_video(WORKFLOWS / "input" / "wan22-tiny-circle.png")

    assert shipped.shape == (3, 1, 128, 128)
    torch.testing.assert_close(shipped, read_video(tmp_path / "circle.png"))
    torch.testing.assert_close(shipped, render([CIRCLE], frames=1)[0], atol=0.5 / 127.5, rtol=0)


def test_a_thumbnail_shows_four_frames(tmp_path: Path):
    video = torch.linspace(-1, 1, 17)[None, :, None, None].expand(3, 17, 32, 32)
    save_file({"video": video.contiguous()}, tmp_path / "clip.safetensors")
    draw_thumbnail(tmp_path / "clip.safetensors", tmp_path / "clip.jpg")

    with Image.open(tmp_path / "clip.jpg") as thumbnail:
        assert thumbnail.size == (64, 64)
        corners = [thumbnail.getpixel(place)[0] for place in ((9, 9), (41, 9), (9, 41), (41, 41))]
    assert corners == sorted(corners)
    assert corners[0] < 3
    assert corners[3] > 252
