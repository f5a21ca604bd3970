"""The node that sets size and length, and turns pictures into conditions."""

from dataclasses import dataclass
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..wan_model.conditioning import condition_video, fit_bicubic, fit_lanczos, known_frames_mask
from ..wan_model.errors import PairingError, ShapeError
from ..wan_model.shapes import (
    check_frames,
    check_size,
    i2v_size_for_area,
    latent_size,
    ti2v_size_for_area,
)
from ._comfy import conditioning, host
from ._report import reports_errors

CROP, KEEP_ASPECT = "crop to size", "keep aspect (official)"


@dataclass(frozen=True)
class Pictures:
    """Given frames (n, H, W, 3) in [0, 1] at the start and the end of the video."""

    start: Tensor | None
    end: Tensor | None

    def one(self) -> Tensor | None:
        """Returns the picture whose aspect counts."""
        return self.start if self.start is not None else self.end

    def fitted(self, fit: Any, width: int, height: int) -> "Pictures":
        """Returns the pictures resized with `fit`."""
        return Pictures(
            *(None if p is None else fit(p[..., :3], width, height) for p in (self.start, self.end))
        )


class WanDuetImageToVideo(io.ComfyNode):
    """Sets the size of the video and the pictures it starts from or ends with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return io.Schema(
            node_id="WanDuetImageToVideo",
            display_name="Wan image to video",
            category="Wan 2.2",
            description="Size and length of the video, with or without pictures. The VAE decides the "
            "kind: wan_2.1_vae for A14B (start and end image), wan2.2_vae for TI2V-5B (start image). "
            "Pictures are scaled to cover the size and cropped in the centre; bicubic for A14B, "
            "Lanczos for 5B, as the official code resizes.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="Positive prompt, from 'Wan prompt'."),
                io.Conditioning.Input("negative", tooltip="Negative prompt, from 'Wan prompt'."),
                io.Vae.Input("vae", tooltip="VAE of the model: wan_2.1_vae for A14B, wan2.2_vae for 5B."),  # fmt: skip
                io.Int.Input(
                    "width",
                    default=832,
                    min=16,
                    max=8192,
                    step=16,
                    tooltip="Pixels, a multiple of 16 (A14B) or 32 (5B). Trained sizes: 832x480 and "
                    "1280x720 for A14B, 1280x704 for 5B, also upright.",
                ),
                io.Int.Input(
                    "height",
                    default=480,
                    min=16,
                    max=8192,
                    step=16,
                    tooltip="Pixels, a multiple of 16 (A14B) or 32 (5B). Memory and time grow faster "
                    "than the number of pixels.",
                ),
                io.Int.Input(
                    "length",
                    default=81,
                    min=1,
                    max=8193,
                    step=4,
                    tooltip="Frames, 4n+1. 81 is 5 seconds at 16 fps (A14B), 121 is 5 seconds at 24 "
                    "fps (5B). Longer than trained tends to loop.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Videos made in one run, each from other noise. Memory grows with it.",
                ),
                io.Image.Input(
                    "start_image",
                    optional=True,
                    tooltip="First frame or frames (I2V-A14B, TI2V-5B). Leave it empty for text to video.",  # fmt: skip
                ),
                io.Image.Input(
                    "end_image",
                    optional=True,
                    tooltip="Last frame or frames (I2V-A14B only); alone or with a start image.",
                ),
                io.Combo.Input(
                    "size_mode",
                    options=[CROP, KEEP_ASPECT],
                    default=CROP,
                    optional=True,
                    tooltip="crop to size: the video is exactly width x height. keep aspect: width x "
                    "height is taken as an area, and the picture's own aspect decides the sides, as "
                    "the official code does. Without a picture both are the same.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
                io.Latent.Output(display_name="latent"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls, width: int | None = None, height: int | None = None, length: int | None = None
    ) -> bool | str:
        """Refuses sizes and lengths that fit no model."""
        try:
            check_size(width or 16, height or 16, 16)
            check_frames(1 if length is None else length)
        except ShapeError as error:
            return str(error)
        return True

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
    ) -> io.NodeOutput:
        """Makes the empty latent, and what the pictures condition."""
        channels = vae.latent_channels
        if channels not in (16, 48):
            raise PairingError(
                f"This VAE is not Wan's. Got one with {channels} latent channels, need 16 or 48. "
                "Load wan_2.1_vae.safetensors (A14B) or wan2.2_vae.safetensors (TI2V-5B)."
            )
        pictures = Pictures(start_image, end_image)
        _check_pictures(pictures, length, channels)
        picture = pictures.one()
        if picture is not None and size_mode == KEEP_ASPECT:
            size_for_area = ti2v_size_for_area if channels == 48 else i2v_size_for_area
            width, height = size_for_area(picture.shape[2], picture.shape[1], width * height)
            host.show(cls.hidden.unique_id, f"{width} x {height}, {length} frames")
        size = latent_size(width, height, length, 16 if channels == 48 else 8)
        shape = (batch_size, channels, size.frames, size.height, size.width)
        latent: dict[str, Any] = {"samples": torch.zeros(shape, device=host.intermediate_device())}
        if picture is None:
            return io.NodeOutput(positive, negative, latent)
        if channels == 48:
            start = pictures.fitted(fit_lanczos, width, height).start
            return io.NodeOutput(positive, negative, conditioning.with_first_frames(latent, vae, start))
        fitted = pictures.fitted(fit_bicubic, width, height)
        video = condition_video(length, fitted.start, fitted.end)
        counts = (0 if p is None else len(p) for p in (fitted.start, fitted.end))
        mask = known_frames_mask(length, *counts, size.height, size.width)
        both = conditioning.with_condition_video((positive, negative), vae, video, mask)
        return io.NodeOutput(*both, latent)


def _check_pictures(pictures: Pictures, length: int, channels: int) -> None:
    if channels == 48 and pictures.end is not None:
        raise PairingError(
            "TI2V-5B cannot end with a given picture. Got an end_image with the Wan2.2 VAE, need a "
            "start_image only. Disconnect end_image, or use I2V-A14B with wan_2.1_vae.safetensors."
        )
    given = sum(len(p) for p in (pictures.start, pictures.end) if p is not None)
    if given > length:
        raise ShapeError(
            f"There are more given frames than the video has. Got {given} for a length of {length}, "
            "need at most that many. Use fewer pictures or a greater length."
        )
    if channels == 48 and pictures.start is not None:
        check_frames(len(pictures.start))


NODES: list[type[io.ComfyNode]] = [WanDuetImageToVideo]
