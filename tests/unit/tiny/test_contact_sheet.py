"""tools.contact_sheet."""

import numpy as np
import pytest
import torch
from PIL import Image

from tools.contact_sheet import GAP_PX, LINE_PX, contact_sheet, frame_grid

HEIGHT, WIDTH = 8, 12


def video(frames: int) -> torch.Tensor:
    """Frame n is plain red of brightness 20 n."""
    red = torch.arange(frames) * 20 / 127.5 - 1
    clip = -torch.ones(3, frames, HEIGHT, WIDTH)
    clip[0] = red[:, None, None]
    return clip


def test_frames_are_in_reading_order_on_white():
    pixels = np.asarray(frame_grid(video(5), columns=3))

    assert pixels.shape == (2 * HEIGHT, 3 * WIDTH, 3)
    cells = pixels.reshape(2, HEIGHT, 3, WIDTH, 3).transpose(0, 2, 1, 3, 4).reshape(6, -1, 3)
    for number, cell in enumerate(cells[:5]):
        assert (cell == (20 * number, 0, 0)).all()
    assert (cells[5] == 255).all()


def test_values_beyond_the_range_are_clipped():
    bright = torch.full((3, 1, HEIGHT, WIDTH), 1.5)
    bright[1] = -1.5
    assert frame_grid(bright, columns=1).getpixel((0, 0)) == (255, 0, 255)


@pytest.mark.parametrize(("columns", "lines"), [(1, 10), (6, 2)])
def test_the_caption_takes_the_lines_it_needs(columns: int, lines: int):
    frames = frame_grid(video(6), columns, GAP_PX)
    sheet = contact_sheet(video(6), "a " * 10, columns)

    assert sheet.width == frames.width + 2 * GAP_PX
    assert sheet.height == frames.height + 3 * GAP_PX + lines * LINE_PX
    top = sheet.height - GAP_PX - frames.height
    assert crop(sheet, (GAP_PX, top), frames.size) == frames.tobytes()
    caption = np.asarray(sheet)[:top]
    assert caption.min() < 64
    assert (caption[:GAP_PX] == 255).all()


def crop(image: Image.Image, corner: tuple[int, int], size: tuple[int, int]) -> bytes:
    x, y = corner
    return image.crop((x, y, x + size[0], y + size[1])).tobytes()


def test_any_script_can_be_written():
    assert contact_sheet(video(17), "一个红色的圆 – naïve").height
