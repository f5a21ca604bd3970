"""Video files that a server has saved."""

from fractions import Fraction

import av
import numpy as np

from .client import RunResult
from .server import ComfyServer


def saved_video(server: ComfyServer, result: RunResult) -> tuple[list[np.ndarray], Fraction | None]:
    """Returns the frames (uint8, H, W, 3) and frames per second of the one video of a run."""
    (saved,) = [out["images"][0] for out in result.outputs.values() if "images" in out]
    with av.open(str(server.output_path(saved))) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        return frames, video.streams.video[0].average_rate
