"""The node that sets size and length, and turns images into conditions."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..wan_model.conditioning import (
    condition_video,
    fit_bicubic,
    fit_lanczos,
    in_colour,
    known_frames_mask,
    resize_bicubic,
)
from ..wan_model.config import OFFICIAL
from ..wan_model.errors import PairingError, SettingsError, ShapeError
from ..wan_model.shapes import (
    i2v_size_for_area,
    latent_size,
    ti2v_size_for_area,
)
from ._comfy.host import runtime
from ._comfy.vae import image_conditioning
from ._report import reports_errors
from .checked_inputs import Conditioning, Image, Vae
from .search_words import search_words
from .video_size import FREE, check_image_for, chosen_length, chosen_size
from .widgets import CROP, KEEP_ASPECT, widgets


@dataclass(frozen=True)
class Images:
    """Given frames (n, H, W, 3) in [0, 1] at the start and the end of the video."""

    start: Tensor | None
    end: Tensor | None

    def one(self) -> Tensor | None:
        """Returns the image whose aspect counts."""
        return self.start if self.start is not None else self.end

    def map(self, change: Callable[[Tensor], Tensor]) -> "Images":
        """Returns the images in colour, changed."""
        both = (self.start, self.end)
        return Images(*(None if p is None else change(in_colour(p)) for p in both))

    def describe(self) -> str:
        """Says what the video is made from."""
        named = (("start image", self.start), ("end image", self.end))
        given = [(name, len(p)) for name, p in named if p is not None]
        texts = (name if n == 1 else f"{name} ({n} frames)" for name, n in given)
        return " and ".join(texts) or "text alone"


class WanDuetImageToVideo(io.ComfyNode):
    """Sets the size of the video and the images it starts from or ends with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return io.Schema(
            node_id="WanDuetImageToVideo",
            display_name="Wan 2.2 Video Size & Images",
            **search_words("WanDuetImageToVideo"),
            category="Wan 2.2",
            description="Size and length of the video, with or without images. The VAE decides "
            "the kind: wan_2.1_vae for A14B (start and end image), wan2.2_vae for TI2V-5B (start "
            "image). Images are scaled to cover the size and cropped in the centre; bicubic for "
            "A14B, Lanczos for 5B, as the official code resizes.",
            inputs=[
                *_condition_inputs(),
                *widgets("width", "height", "length", "batch_size"),
                *_image_inputs(),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
                io.Latent.Output(display_name="latent"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @reports_errors
    def execute(
        cls,
        positive: Any,
        negative: Any,
        vae: Any,
        width: int,
        height: int,
        length: int,
        batch_size: int,
        start_image: Tensor | None = None,
        end_image: Tensor | None = None,
        size_mode: str = CROP,
        size: str = FREE,
        seconds: float = 0.0,
        motion_amplitude: float = 1.0,
    ) -> io.NodeOutput:
        """Makes the empty latent, and what the images condition."""
        images, channels = Images(start_image, end_image), vae.latent_channels
        official = OFFICIAL["ti2v" if channels == 48 else "i2v"]
        length = chosen_length(seconds, length, official.fps)
        _check_inputs(images, length, channels)
        _check_amplitude(motion_amplitude, images, channels)
        check_image_for(size, images.one() is not None)
        width, height, keep_aspect = chosen_size(
            size, width, height, size_mode == KEEP_ASPECT, official
        )
        if keep_aspect and (image := images.one()) is not None:
            width, height = _size_for_image(image, width, height, official.size_multiple)
        of = latent_size(width, height, length, official.size_multiple // 2)
        duration = f"{length / official.fps:.1f} s at {official.fps} fps"
        runtime.show(
            cls.hidden.unique_id,
            f"{width} x {height}, {length} frames ({duration}), from {images.describe()}",
        )
        shape = (batch_size, channels, of.frames, of.height, of.width)
        latent: dict[str, Any] = {
            "samples": torch.zeros(shape, device=runtime.intermediate_device())
        }
        if images.one() is None:
            return io.NodeOutput(positive, negative, latent)
        if channels == 48:
            start = images.map(lambda p: fit_lanczos(p, width, height)).start
            return io.NodeOutput(
                positive, negative, image_conditioning.with_first_frames(latent, vae, start)
            )
        fitted = _fitted_bicubic(images, width, height, keep_aspect)
        video = condition_video(length, fitted.start, fitted.end)
        first, last = (0 if p is None else len(p) for p in (fitted.start, fitted.end))
        mask = known_frames_mask(length, first, last, of.height, of.width)
        both = image_conditioning.with_condition_video(
            (positive, negative), vae, video, mask, motion_amplitude
        )
        return io.NodeOutput(*both, latent)


def _condition_inputs() -> list[Any]:
    return [
        Conditioning.Input(
            "positive", tooltip="What the video shows, encoded by 'Wan 2.2 Prompt'."
        ),
        Conditioning.Input(
            "negative",
            tooltip="What to avoid, encoded by 'Wan 2.2 Prompt'. It gets the images too.",
        ),
        Vae.Input("vae", tooltip="VAE of the model: wan_2.1_vae for A14B, wan2.2_vae for 5B."),
    ]


def _image_inputs() -> list[Any]:
    return [
        Image.Input(
            "start_image",
            optional=True,
            tooltip="First frame or frames (I2V-A14B: any number, TI2V-5B: 4n+1). Leave it "
            "empty for text to video.",
        ),
        Image.Input(
            "end_image",
            optional=True,
            tooltip="Last frame or frames (I2V-A14B only); alone or with a start image.",
        ),
        *widgets("size_mode", "size", "seconds", "motion_amplitude"),
    ]


def _size_for_image(image: Tensor, width: int, height: int, multiple: int) -> tuple[int, int]:
    """Returns the official size for an image's aspect at the area of width x height."""
    image_height, image_width = image.shape[1:3]
    aspect = image_width / image_height
    if math.sqrt(width * height * min(aspect, 1 / aspect)) < multiple:
        raise ShapeError(
            f"The video is too small for the image's aspect. Got an area of {width} x {height} "
            f"for an image of {image_width} x {image_height}, need sides of {multiple} or "
            "more. Use a greater width and height."
        )
    size_for_area = ti2v_size_for_area if multiple == 32 else i2v_size_for_area
    return size_for_area(image_width, image_height, width * height)


def _fitted_bicubic(images: Images, width: int, height: int, keep_aspect: bool) -> Images:
    """Returns the images at the video's size.

    A size made for an image's aspect differs from it by the rounding to multiples of 16. The
    official code stretches that away; an image of another aspect is cropped.
    """
    image = images.one()
    aspect = image.shape[1:3] if keep_aspect and image is not None else None

    def fit(frames: Tensor) -> Tensor:
        resize = resize_bicubic if frames.shape[1:3] == aspect else fit_bicubic
        return resize(frames, width, height)

    return images.map(fit)


def _check_inputs(images: Images, length: int, channels: int) -> None:
    if channels not in (16, 48):
        raise PairingError(
            f"This VAE is not Wan's. Got one with {channels} latent channels, need 16 or 48. "
            "Load wan_2.1_vae.safetensors (A14B) or wan2.2_vae.safetensors (TI2V-5B)."
        )
    if channels == 48 and images.end is not None:
        raise PairingError(
            "TI2V-5B cannot end with a given image. Got an end_image with the Wan2.2 VAE, need a "
            "start_image only. Disconnect end_image, or use I2V-A14B with wan_2.1_vae.safetensors."
        )
    given = sum(len(p) for p in (images.start, images.end) if p is not None)
    if given > length:
        raise ShapeError(
            f"There are more given frames than the video has. Got {given} for a length of "
            f"{length}, need at most {length}. Use fewer images or a greater length."
        )
    if channels == 48 and images.start is not None and len(images.start) % 4 != 1:
        raise ShapeError(
            f"TI2V-5B cannot start with this number of frames. Got {len(images.start)} in "
            "start_image, need 4n+1. Give one image, or 5, 9, 13 ... frames."
        )


def _check_amplitude(amplitude: float, images: Images, channels: int) -> None:
    if amplitude == 1 or (channels == 16 and images.start is not None):
        return
    got = "TI2V-5B" if channels == 48 else images.describe()
    raise SettingsError(
        f"There is no motion to amplify. Got motion_amplitude {amplitude:g} for {got}, need "
        "I2V-A14B with a start image. Set motion_amplitude to 1, or connect start_image."
    )


NODES: list[type[io.ComfyNode]] = [WanDuetImageToVideo]
