"""All frames of a video in one image, with its prompt above them."""

import math
import textwrap

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

GAP_PX = 4
FONT_PX = 14
LINE_PX = 18
CHARACTER_PX = 9
"""Room for a wide one."""


def contact_sheet(video: Tensor, caption: str, columns: int = 6) -> Image.Image:
    """Returns the frames in reading order, on white.

    Args:
        video: in [-1, 1], [3, T, H, W].
        caption: text above them; long ones are wrapped.
        columns: frames in a row.
    """
    frames = frame_grid(video, columns, GAP_PX)
    width = frames.width + 2 * GAP_PX
    lines = textwrap.wrap(caption, max(1, frames.width // CHARACTER_PX))
    top = 2 * GAP_PX + LINE_PX * len(lines)
    sheet = Image.new("RGB", (width, top + frames.height + GAP_PX), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PX)
    for number, line in enumerate(lines):
        draw.text((GAP_PX, GAP_PX + number * LINE_PX), line, fill="black", font=font)
    sheet.paste(frames, (GAP_PX, top))
    return sheet


def frame_grid(video: Tensor, columns: int, gap_px: int = 0) -> Image.Image:
    """Returns the frames of a video in [-1, 1], [3, T, H, W], in rows of `columns`, on white."""
    _, count, height, width = video.shape
    rows = math.ceil(count / columns)
    size = (columns * (width + gap_px) - gap_px, rows * (height + gap_px) - gap_px)
    grid = Image.new("RGB", size, "white")
    pixels = ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0)
    for number, frame in enumerate(pixels):
        row, column = divmod(number, columns)
        place = (column * (width + gap_px), row * (height + gap_px))
        grid.paste(Image.fromarray(frame.numpy()), place)
    return grid
