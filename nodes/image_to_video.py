"""The node that sets size and length, and turns images into conditions."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
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
from ..wan_model.config import OFFICIAL, OfficialSettings
from ..wan_model.errors import PairingError, SettingsError, ShapeError
from ..wan_model.shapes import (
    i2v_size_for_area,
    latent_size,
    ti2v_size_for_area,
)
from ._comfy.host import runtime
from ._comfy.model import facts
from ._comfy.vae import image_conditioning
from ._comfy.vae.continuation import AFTER_ANCHOR, continued, last_frames, with_anchor
from ._report import reports_errors
from .checked_inputs import Conditioning, Image, Latent, Vae
from .search_words import search_words
from .video_size import FREE, check_image_for, chosen_length, chosen_size
from .widgets import CROP, KEEP_ASPECT, widgets


@dataclass(frozen=True)
class Images:
    """Given frames (n, H, W, 3) in [0, 1] at the start and the end of the video."""

    start: Tensor | None
    end: Tensor | None
    anchor: Tensor | None = None
    """Of SVI 2 Pro: what all clips show, instead of a first frame."""

    def one(self) -> Tensor | None:
        """Returns the image whose aspect counts."""
        given = (self.start, self.end, self.anchor)
        return next((image for image in given if image is not None), None)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Images":
        """Returns the images in colour, changed."""
        given = (self.start, self.end, self.anchor)
        return Images(*(None if p is None else change(in_colour(p)) for p in given))

    def describe(self) -> str:
        """Says what the video is made from."""
        named = (
            ("start image", self.start),
            ("end image", self.end),
            ("anchor image", self.anchor),
        )
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
            description=(
                "Size and length of the video, with or without a first and last image, which are "
                "scaled to cover it and cropped in the centre. It can go on where a clip ends."
            ),
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
        previous_latent: dict[str, Any] | None = None,
        anchor_image: Tensor | None = None,
        previous_frames: int = 1,
    ) -> io.NodeOutput:
        """Makes the empty latent, and what the images condition."""
        images, channels = Images(start_image, end_image, anchor_image), vae.latent_channels
        before = None if previous_latent is None else previous_latent["samples"]
        official = OFFICIAL["ti2v" if channels == 48 else "i2v"]
        length = chosen_length(seconds, length, official.fps)
        _check_vae(channels, images)
        if before is not None:
            check_previous(vae, before, images.start)
        if before is not None and anchor_image is None:
            images = _going_on(images, vae, before, previous_frames, length)
        _check_inputs(images, length, channels)
        _check_amplitude(motion_amplitude, images, channels)
        width, height, keep_aspect = _video_size(
            size, width, height, size_mode, images, before, official
        )
        of = latent_size(width, height, length, official.size_multiple // 2)
        duration = f"{length / official.fps:.1f} s at {official.fps} fps"
        source = images.describe() if before is None else "the clip before"
        runtime.show(
            cls.hidden.unique_id,
            f"{width} x {height}, {length} frames ({duration}), from {source}",
        )
        shape = (batch_size, channels, of.frames, of.height, of.width)
        latent: dict[str, Any] = {
            "samples": torch.zeros(shape, device=runtime.intermediate_device())
        }
        if before is not None:
            seen = AFTER_ANCHOR if images.start is None else (0, len(images.start))
            latent = continued(latent, *seen)
        if images.one() is None:
            return io.NodeOutput(positive, negative, latent)
        if channels == 48:
            start = images.map(lambda p: fit_lanczos(p, width, height)).start
            return io.NodeOutput(
                positive, negative, image_conditioning.with_first_frames(latent, vae, start)
            )
        fitted = _fitted_bicubic(images, width, height, keep_aspect)
        given = (positive, negative)
        both = _conditioned(given, vae, fitted, before, length, motion_amplitude)
        return io.NodeOutput(*both, latent)


def _video_size(
    choice: str,
    width: int,
    height: int,
    mode: str,
    images: Images,
    before: Tensor | None,
    official: OfficialSettings,
) -> tuple[int, int, bool]:
    """Returns width, height, and whether they were made for an image's aspect."""
    if before is not None:
        stride = official.size_multiple // 2
        return before.shape[-1] * stride, before.shape[-2] * stride, False
    check_image_for(choice, images.one() is not None)
    width, height, keep_aspect = chosen_size(choice, width, height, mode == KEEP_ASPECT, official)
    if keep_aspect and (image := images.one()) is not None:
        width, height = _size_for_image(image, width, height, official.size_multiple)
    return width, height, keep_aspect


def _conditioned(
    conditionings: tuple[Any, Any],
    vae: Any,
    images: Images,
    before: Tensor | None,
    length: int,
    amplitude: float,
) -> list[Any]:
    """Returns both conditionings of I2V-A14B with what images of the video's size tell it."""
    if images.anchor is not None:
        return with_anchor(conditionings, vae, images.anchor[:1], before, length, amplitude)
    video = condition_video(length, images.start, images.end)
    first, last = (0 if p is None else len(p) for p in (images.start, images.end))
    height, width = (side // 8 for side in video.shape[1:3])
    mask = known_frames_mask(length, first, last, height, width)
    return image_conditioning.with_condition_video(conditionings, vae, video, mask, amplitude)


def check_previous(vae: Any, before: Tensor, start: Tensor | None) -> None:
    """Refuses a clip before that does not fit.

    Raises:
        PairingError: for another VAE's latent, or a start image beside it.
        ShapeError: for several videos.
    """
    facts.check_vae(vae, before)
    if start is not None:
        raise PairingError(
            "The video would have two beginnings. Got a start_image and a previous_latent, need "
            "one of them. Disconnect start_image; a LoRA for SVI 2 Pro wants it as anchor_image."
        )
    if len(before) > 1:
        raise ShapeError(
            f"A batch cannot be continued. Got {len(before)} videos in previous_latent, need one. "
            "Take one out with ComfyUI's 'Latent From Batch'."
        )


def _condition_inputs() -> list[Any]:
    return [
        Conditioning.Input(
            "positive", tooltip="What the video shows, encoded by 'Wan 2.2 Prompt'."
        ),
        Conditioning.Input(
            "negative",
            tooltip="What to avoid, encoded by 'Wan 2.2 Prompt'. It gets the images too.",
        ),
        Vae.Input("vae", tooltip="The model's VAE: wan_2.1_vae for 14B, wan2.2_vae for 5B."),
    ]


def _image_inputs() -> list[Any]:
    return [
        Image.Input(
            "start_image",
            optional=True,
            tooltip=(
                "First frame of the video, or several first frames. Leave it empty for text to "
                "video."
            ),
        ),
        Image.Input(
            "end_image",
            optional=True,
            tooltip="Last frame of the video, alone or with a start image. I2V 14B only.",
        ),
        *widgets("size_mode", "size", "seconds", "motion_amplitude"),
        Latent.Input(
            "previous_latent",
            optional=True,
            tooltip="The clip before, as its sampler gives it: this one begins with its last frame "
            "and has its size. Join both with 'Wan 2.2 Join Clips'.",
        ),
        Image.Input(
            "anchor_image",
            optional=True,
            tooltip="For I2V-A14B with the LoRA SVI 2 Pro, in place of start_image: what all clips "
            "show. With previous_latent the motion goes on, without it this is the first clip.",
        ),
        *widgets("previous_frames"),
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


def _check_vae(channels: int, images: Images) -> None:
    if channels not in (16, 48):
        raise PairingError(
            f"This VAE is not Wan's. Got one with {channels} latent channels, need 16 or 48. "
            "Load wan_2.1_vae.safetensors (14B) or wan2.2_vae.safetensors (TI2V-5B)."
        )
    if channels == 48 and images.end is not None:
        raise PairingError(
            "TI2V-5B cannot end with a given image. Got an end_image with the Wan 2.2 VAE, need a "
            "start_image only. Disconnect end_image, or use I2V-A14B with wan_2.1_vae.safetensors."
        )
    others = [name for name in ("start", "end") if getattr(images, name) is not None]
    if images.anchor is not None and (channels == 48 or others):
        got = "the Wan 2.2 VAE" if channels == 48 else f"{others[0]}_image"
        raise PairingError(
            f"An anchor image is for I2V-A14B with the LoRA SVI 2 Pro alone. Got one and {got}, "
            "need the Wan 2.1 VAE and no other image. Use start_image without that LoRA."
        )


def _check_inputs(images: Images, length: int, channels: int) -> None:
    given = sum(len(p) for p in (images.start, images.end) if p is not None)
    if given > length:
        raise ShapeError(
            f"There are more images than the video has frames. Got {given} for a length of "
            f"{length}, need at most {length}. Use fewer images or a greater length."
        )
    if channels == 48 and images.start is not None and len(images.start) % 4 != 1:
        raise ShapeError(
            f"TI2V-5B cannot start with this number of frames. Got {len(images.start)} in "
            "start_image, need 4n+1. Give one image, or 5, 9, 13 ... frames."
        )


def _going_on(images: Images, vae: Any, before: Tensor, count: int, length: int) -> Images:
    """Returns images that start with the last frames of the clip before, or all if it has fewer."""
    if count >= length:
        raise ShapeError(
            f"Nothing would follow the frames of the clip before. Got previous_frames {count} for "
            f"a length of {length}, need fewer. Lower previous_frames, or use a greater length."
        )
    return replace(images, start=last_frames(vae, before, count))


def _check_amplitude(amplitude: float, images: Images, channels: int) -> None:
    first = images.start if images.anchor is None else images.anchor
    if amplitude == 1 or (channels == 16 and first is not None):
        return
    got = "TI2V-5B" if channels == 48 else images.describe()
    raise SettingsError(
        f"There is no motion to amplify. Got motion_amplitude {amplitude:g} for {got}, need "
        "I2V-A14B with a start image. Set motion_amplitude to 1, or connect start_image."
    )


NODES: list[type[io.ComfyNode]] = [WanDuetImageToVideo]
