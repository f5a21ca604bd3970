"""Contact sheets: a few frames of each clip in a row, with its caption."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

_CAPTION = 28
"""Height of two lines of text."""


def contact_sheet(
    videos: Tensor, captions: Sequence[str], path: Path, *, frames: int = 5, columns: int = 2
) -> None:
    """Writes a PNG.

    Args:
        videos: in [-1, 1], [B, 3, T, H, W].
        captions: B of them.
        path: file to write.
        frames: frames shown of each clip, from the first to the last.
        columns: clips side by side.
    """
    count, _, total, height, width = videos.shape
    picked = torch.linspace(0, total - 1, frames).round().long()
    pixels = ((videos.float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    strips = pixels[:, :, picked].permute(0, 3, 2, 4, 1).reshape(count, height, frames * width, 3)
    rows = -(-count // columns)
    cell = (frames * width + 8, height + _CAPTION + 8)
    sheet = Image.new("RGB", (columns * cell[0], rows * cell[1]), "white")
    draw = ImageDraw.Draw(sheet)
    for n, (strip, text) in enumerate(zip(strips, captions, strict=True)):
        x, y = n % columns * cell[0], n // columns * cell[1]
        sheet.paste(Image.fromarray(strip.numpy()), (x, y + _CAPTION))
        draw.text((x + 2, y + 2), textwrap.fill(text, frames * width // 6), fill="black")
    sheet.save(path)
