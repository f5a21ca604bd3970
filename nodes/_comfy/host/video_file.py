"""A video that is written to ComfyUI's temporary folder while it is made."""

import uuid
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import folder_paths
from comfy_api.latest import InputImpl
from torch import Tensor


def write_video(frames: Iterator[Tensor], fps: float) -> tuple[Any, int]:
    """Writes an MP4 as ComfyUI's own nodes do (H.264, yuv420p), frame by frame.

    Args:
        frames: (n, H, W, 3) in [0, 1] on the CPU, as they come.
        fps: frames per second.

    Returns:
        ComfyUI's VIDEO of that file, which *Save Video* copies as it is, and its number of frames.
    """
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"wanduet-{uuid.uuid4().hex}.mp4"
    written = 0
    try:
        with av.open(str(path), mode="w") as output:
            stream: Any = output.add_stream("h264", rate=Fraction(round(fps * 1000), 1000))
            stream.pix_fmt = "yuv420p"
            for part in frames:
                for image in part:
                    if not written:
                        stream.height, stream.width = image.shape[:2]
                    pixels = (image * 255).clamp(0, 255).byte().numpy()
                    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                    output.mux(stream.encode(frame.reformat(format="yuv420p")))
                    written += 1
            output.mux(stream.encode(None))
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return InputImpl.VideoFromFile(str(path)), written
