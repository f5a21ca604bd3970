"""Numbers and choices of the nodes for videos longer than five seconds."""

from comfy_api.latest import io

from ..wan_model.shapes import check_frames
from ._comfy.sampling.time_windows import STATIC, UNIFORM
from .checked_inputs import Choice, Steps
from .widgets import MAX_LENGTH, Row

CUT, CROSSFADE = "cut", "crossfade"

WINDOWS: dict[str, Row] = {
    "window_length": Row(
        io.Int,
        default=81,
        min=Steps(13, check_frames, "4n+1"),
        max=MAX_LENGTH,
        step=4,
        tooltip="Frames that the model sees at once, 4n+1. 81 is what 14B was trained on, 121 what "
        "5B was. Memory is that of a video of this length.",
    ),
    "window_overlap": Row(
        io.Int,
        default=32,
        min=4,
        max=MAX_LENGTH,
        step=4,
        tooltip="Frames that neighbouring windows share. More joins them better and takes longer.",
    ),
    "window_schedule": Row(
        Choice,
        options=[UNIFORM, STATIC],
        default=UNIFORM,
        advanced=True,
        tooltip="uniform: windows lie elsewhere in every step, so that no seam stays in one place. "
        "static: always in the same places, which suits runs of 4 steps.",
    ),
    "free_noise": Row(
        io.Boolean,
        default=True,
        advanced=True,
        tooltip="FreeNoise: all windows begin from the same noise in another order, so that they "
        "show one scene.",
    ),
    "loop": Row(
        io.Boolean,
        default=False,
        tooltip="The video's end goes over into its beginning, for text to video of any length. "
        "Decode it with 'Wan 2.2 Join Clips', loop on.",
    ),
    "keep_image": Row(
        io.Boolean,
        default=True,
        tooltip="Show the start image in every window, against drift. It has no effect on text to "
        "video.",
    ),
}
"""Of context windows."""

JOIN: dict[str, Row] = {
    "blend": Row(
        Choice,
        options=[CUT, CROSSFADE],
        default=CUT,
        tooltip="What happens in the frames that two clips share. cut: the earlier clip's are "
        "kept. crossfade: one goes over into the other.",
    ),
    "match_colours": Row(
        io.Boolean,
        default=False,
        tooltip="Bring each clip to the brightness, contrast and colours in which the one before "
        "ended. Off for clips that are meant to differ.",
    ),
    "overlap": Row(
        io.Int,
        default=1,
        min=0,
        max=MAX_LENGTH,
        tooltip="Frames that a clip repeats of the one before: 1 if it starts from the last "
        "frame. Clips continued with previous_latent know theirs, whatever is set here.",
    ),
    "loop": Row(
        io.Boolean,
        default=False,
        tooltip="For one clip made with 'loop' of context windows: decode it so that the last "
        "frame goes over into the first one.",
    ),
    "fps": Row(
        io.Float,
        default=0.0,
        min=0.0,
        max=120.0,
        step=1.0,
        tooltip="Frames per second of the video. 0: the model's own, 16 for 14B and 24 for 5B.",
    ),
}
"""Of joining clips."""
