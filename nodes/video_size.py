"""The list of sizes that the models were trained on, and lengths in seconds."""

from dataclasses import dataclass

from ..wan_model.config import OfficialSettings
from ..wan_model.errors import SettingsError
from ..wan_model.shapes import TEMPORAL_STRIDE

FREE, IMAGE_SHAPE = "width x height", "shape of the image"


@dataclass(frozen=True)
class TrainedSize:
    """A row of the list: pixels for A14B, and for 5B, whose sides are multiples of 32."""

    a14b: tuple[int, int]
    ti2v: tuple[int, int]
    of_image: bool = False
    """The pixels are an area, and the image's aspect decides the sides."""

    def pixels(self, official: OfficialSettings) -> tuple[int, int]:
        """Returns (width, height) for a model kind."""
        return self.ti2v if official.size_multiple == 32 else self.a14b


SIZES: dict[str, TrainedSize] = {
    "480p landscape": TrainedSize((832, 480), (832, 480)),
    "480p portrait": TrainedSize((480, 832), (480, 832)),
    "480p square": TrainedSize((624, 624), (640, 640)),
    f"480p {IMAGE_SHAPE}": TrainedSize((832, 480), (832, 480), of_image=True),
    "720p landscape": TrainedSize((1280, 720), (1280, 704)),
    "720p portrait": TrainedSize((720, 1280), (704, 1280)),
    "720p square": TrainedSize((960, 960), (960, 960)),
    f"720p {IMAGE_SHAPE}": TrainedSize((1280, 720), (1280, 704), of_image=True),
}


def chosen_size(
    choice: str, width: int, height: int, keep_aspect: bool, official: OfficialSettings
) -> tuple[int, int, bool]:
    """Returns width and height, and whether they are an area for the image's aspect.

    Args:
        choice: `FREE`, or a row of `SIZES`.
        width: pixels, for `FREE`.
        height: likewise.
        keep_aspect: likewise.
        official: of the model kind that the VAE belongs to.
    """
    if choice == FREE:
        return width, height, keep_aspect
    size = SIZES[choice]
    return *size.pixels(official), size.of_image


def chosen_length(seconds: float, length: int, fps: int) -> int:
    """Returns the frames, 4n+1, that come nearest to `seconds` after the first one; 0: `length`."""
    if seconds <= 0:
        return length
    return round(seconds * fps / TEMPORAL_STRIDE) * TEMPORAL_STRIDE + 1


def check_image_for(choice: str, has_image: bool) -> None:
    """Refuses the shape of an image where there is none.

    Raises:
        SettingsError: names what to choose.
    """
    if choice in SIZES and SIZES[choice].of_image and not has_image:
        wanted = choice.replace(IMAGE_SHAPE, "landscape")
        raise SettingsError(
            f"There is no image to take the shape from. Got size '{choice}', need an "
            f"image. Connect start_image, or choose '{wanted}'."
        )
