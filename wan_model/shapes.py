"""Arithmetic of sizes: pixels, frames, latents, tokens, and the image sizes of the official code.

Width and height are pixels, frames are frames of video, a latent size is (T, H, W).
"""

import math
from dataclasses import dataclass

from .errors import ShapeError

TEMPORAL_STRIDE = 4
"""Frames per latent frame after the first; both VAEs keep the first frame on its own."""


@dataclass(frozen=True)
class LatentSize:
    """Size of a latent: T latent frames of H x W latent pixels."""

    frames: int
    height: int
    width: int

    @property
    def tokens(self) -> int:
        """Transformer tokens of one clip; the patch size is 1 x 2 x 2."""
        return self.frames * (self.height // 2) * (self.width // 2)


def latent_frames(frames: int) -> int:
    """Returns the latent frames of `frames` video frames.

    Raises:
        ShapeError: if `frames` is not 4n+1.
    """
    check_frames(frames)
    return (frames - 1) // TEMPORAL_STRIDE + 1


def video_frames(latent_frame_count: int) -> int:
    """Returns the video frames that `latent_frame_count` latent frames decode to."""
    return (latent_frame_count - 1) * TEMPORAL_STRIDE + 1


def check_frames(frames: int) -> None:
    """Refuses a frame count that is not 4n+1 and names the nearest valid ones.

    Raises:
        ShapeError: the VAEs would silently drop the frames beyond the last 4n+1.
    """
    if frames >= 1 and (frames - 1) % TEMPORAL_STRIDE == 0:
        return
    below = max(1, (frames - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1)
    choice = "1" if frames < 1 else f"{below} or {below + TEMPORAL_STRIDE}"
    raise ShapeError(f"The number of frames cannot be used. Got {frames}, need 4n+1. Use {choice}.")


def check_size(width: int, height: int, multiple: int) -> None:
    """Refuses an image size that is not a multiple of `multiple` pixels.

    Raises:
        ShapeError: names the two nearest valid values of the side that is wrong.
    """
    for name, value in (("width", width), ("height", height)):
        if value >= multiple and value % multiple == 0:
            continue
        below = value // multiple * multiple
        choice = f"{below} or {below + multiple}" if below >= multiple else f"{multiple}"
        raise ShapeError(
            f"The {name} cannot be used. Got {value}, need a multiple of {multiple}. Use {choice}."
        )


def latent_size(width: int, height: int, frames: int, spatial_stride: int) -> LatentSize:
    """Returns the latent size of a video.

    Args:
        width: pixels, a multiple of twice `spatial_stride`.
        height: likewise.
        frames: 4n+1.
        spatial_stride: 8 for the Wan2.1 VAE, 16 for the Wan2.2 VAE.

    Raises:
        ShapeError: for a size or frame count that does not fit.
    """
    check_size(width, height, 2 * spatial_stride)
    return LatentSize(latent_frames(frames), height // spatial_stride, width // spatial_stride)


def i2v_size_for_area(image_width: int, image_height: int, area: int) -> tuple[int, int]:
    """Returns the A14B video size (width, height) that keeps an image's aspect at about `area`.

    Both sides are floored to multiples of 16, as `wan/image2video.py` does: divided by the VAE
    stride 8, then by the patch size 2.
    """
    aspect = image_height / image_width
    height = int(math.sqrt(area * aspect) // 8 // 2) * 16
    width = int(math.sqrt(area / aspect) // 8 // 2) * 16
    return width, height


def ti2v_size_for_area(image_width: int, image_height: int, area: int) -> tuple[int, int]:
    """Returns the 5B video size (width, height): multiples of 32, area never exceeded.

    Two candidates are made, one that floors the width first and one that floors the height first;
    the one closer to the image's aspect wins, ties go to the second (`best_output_size` in
    `wan/utils/utils.py`).
    """
    step = 32
    ratio = image_width / image_height
    ideal_width = math.sqrt(area * ratio)
    ideal_height = area / ideal_width
    width_1 = int(ideal_width // step * step)
    height_1 = int(area / width_1 // step * step)
    height_2 = int(ideal_height // step * step)
    width_2 = int(area / height_2 // step * step)

    def deviation(width: int, height: int) -> float:
        return max(ratio / (width / height), width / height / ratio)

    if deviation(width_1, height_1) < deviation(width_2, height_2):
        return width_1, height_1
    return width_2, height_2
