"""Several short videos side by side: as frames, as an mp4, and as an animated WebP."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from .contact_sheet import frame_grid

GAP_PX = 8
FRAMES_PER_SECOND = 16
"""What the 14B models are made for."""


def beside(videos: Sequence[Tensor]) -> list[Image.Image]:
    """Returns frames that show all videos in a row, on white, as squares of the longest side.

    Args:
        videos: in [-1, 1], [3, T, H, W] each; shorter ones stay at their last frame.
    """
    side = max(max(video.shape[2:]) for video in videos)
    rows = []
    for number in range(max(video.shape[1] for video in videos)):
        strip = Image.new("RGB", (len(videos) * (side + GAP_PX) - GAP_PX, side), "white")
        for place, video in enumerate(videos):
            frame = frame_grid(video[:, [min(number, video.shape[1] - 1)]], columns=1)
            if frame.size != (side, side):
                frame = frame.resize((side, side), Image.Resampling.BICUBIC)
            strip.paste(frame, (place * (side + GAP_PX), 0))
        rows.append(strip)
    return rows


def save_webp(frames: Sequence[Image.Image], path: Path) -> None:
    """Writes an animated WebP that plays forwards and backwards for ever."""
    first, *rest = [*frames, *frames[-2:0:-1]]
    milliseconds = round(1000 / FRAMES_PER_SECOND)
    more = {"append_images": rest, "duration": milliseconds, "loop": 0}
    first.save(path, save_all=True, quality=70, method=6, **more)


def save_mp4(frames: Sequence[Image.Image], path: Path) -> None:
    """Writes an H.264 mp4 with PyAV, which ComfyUI brings; odd sizes lose one line."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=FRAMES_PER_SECOND)
        stream.width, stream.height = (length - length % 2 for length in frames[0].size)
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            even = frame.crop((0, 0, stream.width, stream.height))
            container.mux(stream.encode(av.VideoFrame.from_image(even)))
        container.mux(stream.encode())
