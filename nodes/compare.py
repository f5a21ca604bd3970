"""Two videos side by side in one frame: what a setting, a LoRA or a seed changed."""

import io as streams
from typing import Any

from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ..wan_model.errors import ShapeError
from ._comfy.host import runtime
from ._report import reports_errors
from .checked_inputs import Least, OneOf
from .search_words import search_words

QUALITY = 90
"""Of the JPEG frames that are compared on the screen; nothing else is made of them."""
SIDES = ("a", "b")


class WanDuetCompare(io.ComfyNode):
    """Plays two videos in step, one over the other."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return io.Schema(
            node_id="WanDuetCompare",
            display_name="Wan 2.2 Compare Videos",
            **search_words("WanDuetCompare"),
            category="Wan 2.2",
            description=(
                "Plays two videos in step: a slider wipes between them, arrow keys go frame by "
                "frame, and their difference can be amplified."
            ),
            inputs=[
                OneOf.Input(
                    "video_a",
                    types=[io.Image, io.Video],
                    tooltip="Video or images to the left of the slider.",
                ),
                OneOf.Input(
                    "video_b",
                    types=[io.Image, io.Video],
                    tooltip="Video or images to the right of the slider, scaled to the first.",
                ),
                io.Float.Input(
                    "fps",
                    default=16.0,
                    min=Least(1.0),
                    max=120.0,
                    step=1.0,
                    tooltip=(
                        "Frames per second of images: 16 for 14B, 24 for 5B. A video has its own, "
                        "and the first one's counts."
                    ),
                ),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    @reports_errors
    def execute(cls, video_a: Any, video_b: Any, fps: float) -> io.NodeOutput:
        """Writes the frames of both where the editor fetches them."""
        rate, videos = fps, []
        for side, video in zip(SIDES, (video_a, video_b), strict=True):
            frames, own_rate = _frames(video, side)
            if own_rate is not None and not videos:
                rate = own_rate
            videos.append(_write(frames))
        return io.NodeOutput(ui={"wanduet_compare": [{"fps": rate, "videos": videos}]})


def _frames(video: Any, side: str) -> tuple[Tensor, float | None]:
    """Returns images [T, H, W, C] in 0..1 and, of a video, its frames per second."""
    rate = None
    if not isinstance(video, Tensor):
        components = video.get_components()
        video, rate = components.images, float(components.frame_rate)
    if video.ndim != 4 or not len(video):
        raise ShapeError(
            f"There is nothing to compare. Got images of shape {tuple(video.shape)} as video_{side}"
            ", need at least one frame. Connect a video or images."
        )
    return video, rate


def _write(frames: Tensor) -> dict[str, Any]:
    """Writes all frames into one temporary file; returns where it is, and each frame's length."""
    lengths = []
    data = streams.BytesIO()
    for frame in frames:
        pixels = frame.detach().float().clamp(0, 1).mul(255).round().byte().cpu().numpy()
        if pixels.shape[-1] == 1:
            pixels = pixels.repeat(3, -1)
        before = data.tell()
        Image.fromarray(pixels[..., :3]).save(data, "JPEG", quality=QUALITY, subsampling=0)
        lengths.append(data.tell() - before)
    place = runtime.write_temporary("wanduet_compare", ".mjpeg", data.getvalue())
    height, width = frames.shape[1:3]
    return {**place, "lengths": lengths, "width": int(width), "height": int(height)}


NODES: list[type[io.ComfyNode]] = [WanDuetCompare]
