"""tools.montage."""

import numpy as np
import torch
from PIL import Image

from tools.montage import GAP_PX, beside, save_mp4, save_webp
from tools.tiny_score import read_video


def video(frames: int, side: int, first: float) -> torch.Tensor:
    """Frame n is plain grey, a bit brighter than the one before."""
    return (first + 0.1 * torch.arange(frames)).view(1, -1, 1, 1).expand(3, -1, side, side)


def test_videos_stand_in_a_row_and_a_short_one_waits_at_its_end(tmp_path):
    frames = beside([video(3, 33, -0.5), video(5, 17, 0.0)])

    assert [frame.size for frame in frames] == [(2 * 33 + GAP_PX, 33)] * 5
    left, gap, right = (
        [frame.convert("L").getpixel((x, 16)) for frame in frames] for x in (16, 36, 57)
    )
    assert left == [64, 76, 89, 89, 89]
    assert gap == [255] * 5
    assert right == [128, 140, 153, 166, 178]

    save_mp4(frames, tmp_path / "all.mp4")
    assert read_video(tmp_path / "all.mp4").shape == (3, 5, 32, 74)
    save_webp(frames, tmp_path / "all.webp")
    with Image.open(tmp_path / "all.webp") as moving:
        assert moving.n_frames == 8  # there and back
        moving.seek(6)
        shown = np.asarray(moving.convert("RGB"))
    assert abs(int(shown[16, 57, 0]) - 153) <= 4
