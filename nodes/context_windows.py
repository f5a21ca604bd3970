"""The node that shows a long video to the model in windows of time."""

from typing import Any

from comfy_api.latest import io

from ..wan_model.errors import SettingsError
from ..wan_model.shapes import latent_frames
from ._comfy.model import facts
from ._comfy.sampling.time_windows import Windows, with_context_windows
from ._report import reports_errors
from .checked_inputs import Model
from .long_video_widgets import WINDOWS
from .search_words import search_words
from .widgets import widgets


class WanDuetContextWindows(io.ComfyNode):
    """Puts core's context windows on both experts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return io.Schema(
            node_id="WanDuetContextWindows",
            display_name="Wan 2.2 Context Windows (Long Video)",
            **search_words("WanDuetContextWindows"),
            category="Wan 2.2",
            description="Videos of any length in the memory of one window: the model sees "
            "overlapping windows, which are blended in every step. For one scene that goes on.",
            inputs=[
                Model.Input(
                    "model_high", tooltip="High-noise expert, or TI2V-5B. The input is not changed."
                ),
                Model.Input(
                    "model_low",
                    optional=True,
                    tooltip="Low-noise expert. Empty for TI2V-5B. The input is not changed.",
                ),
                *widgets(*WINDOWS, table=WINDOWS),
            ],
            outputs=[
                io.Model.Output(display_name="model_high"),
                io.Model.Output(display_name="model_low"),
            ],
        )

    @classmethod
    @reports_errors
    def execute(
        cls,
        model_high: Any,
        window_length: int,
        window_overlap: int,
        window_schedule: str,
        free_noise: bool,
        loop: bool,
        keep_image: bool,
        model_low: Any = None,
    ) -> io.NodeOutput:
        """Returns clones of both MODELs."""
        lengths = window_lengths(window_length, window_overlap)
        windows = Windows(*lengths, window_schedule, free_noise, loop, keep_image)
        channels = facts.of_experts(model_high, model_low).latent_channels
        given = (model for model in (model_high, model_low) if model is not None)
        clones = [with_context_windows(model, windows, channels) for model in given]
        return io.NodeOutput(*clones, *[None] * (2 - len(clones)))


def window_lengths(window_length: int, window_overlap: int) -> tuple[int, int]:
    """Returns both in latent frames.

    Raises:
        SettingsError: for an overlap of more than half a window.
        ShapeError: for a length that is not 4n+1.
    """
    length = latent_frames(window_length)
    overlap = window_overlap // 4
    if overlap > length // 2:
        raise SettingsError(
            f"The windows overlap too much. Got window_overlap {window_overlap} for "
            f"window_length {window_length}, need at most {length // 2 * 4}. Use less overlap "
            "or longer windows."
        )
    return length, overlap


NODES: list[type[io.ComfyNode]] = [WanDuetContextWindows]
