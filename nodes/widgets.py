"""Every number and choice that a node shows, in one table: type, range, default, explanation.

A node's sockets, and what its choices mean, are in its own file. Loaders' widgets depend on files.
"""

from collections.abc import Mapping
from inspect import signature
from typing import Any, get_args

from comfy_api.latest import io

from ..wan_model.dit.compiled_stages import Mode
from ..wan_model.presets import AUTO, preset_names
from ..wan_model.sampling import STEP_CACHE_METHODS
from ..wan_model.shapes import check_frames, check_size
from ._comfy.sampling import samplers
from .checked_inputs import Choice, Least, Steps
from .video_size import FREE, SIZES

CROP, KEEP_ASPECT = "crop to size", "keep aspect (official)"
MAX_SIDE, MAX_LENGTH = 8192, 8193

TAKES_ADVANCED = "advanced" in signature(io.Float.Input.__init__).parameters
"""Whether inputs can be folded away behind "advanced"; older versions show all."""


def widgets(*names: str, table: "Mapping[str, Row] | None" = None, **changes: Any) -> list[Any]:
    """Returns new inputs by name, in this order.

    Args:
        names: rows of the table.
        table: of another file. None: `TABLE`.
        changes: options of all of them that differ from the table's.
    """
    return [(table or TABLE)[name].make(name, changes) for name in names]


class Row:
    """A number or choice without its name: its type in ComfyUI, and the options of its input."""

    def __init__(self, kind: Any, **options: Any) -> None:
        self._kind, self._options = kind, options

    def make(self, name: str, changes: dict[str, Any]) -> Any:
        """Returns a new input."""
        options = {**self._options, **changes}
        if callable(options.get("options")):  # asked each time: other packs add samplers
            options["options"] = options["options"]()
        if not TAKES_ADVANCED:
            options.pop("advanced", None)
        if self._kind is io.Float and "min" in options:
            options["min"] = Least(options["min"])
        return self._kind.Input(name, **options)


def _check_side(pixels: int) -> None:
    check_size(pixels, pixels, 16)


TABLE: dict[str, Row] = {
    "seed": Row(
        io.Int,
        default=0,
        min=0,
        max=0xFFFFFFFFFFFFFFFF,
        control_after_generate=True,
        tooltip="Random seed. The same seed and settings give the same video on the same machine.",
    ),
    "steps": Row(
        io.Int,
        default=0,
        min=-1,
        max=1000,
        tooltip="Steps over both experts together. 0: what the preset or a distilled model or LoRA "
        "wants, else the official number. 20 is a good compromise.",
    ),
    "cfg_high": Row(
        io.Float,
        default=0.0,
        min=-1.0,
        max=100.0,
        step=0.1,
        round=0.01,
        tooltip="Guidance of the high-noise expert: how closely it follows the prompt. 0: what the "
        "model is made for. 1 halves the time and ignores the negative prompt.",
    ),
    "cfg_low": Row(
        io.Float,
        default=0.0,
        min=-1.0,
        max=100.0,
        step=0.1,
        round=0.01,
        tooltip="Guidance of the low-noise expert: how closely it follows the prompt. 0: what the "
        "model is made for. 1 halves the time and ignores the negative prompt.",
    ),
    "sampler": Row(
        Choice,
        options=lambda: [AUTO, *samplers.sampler_names()],
        default=AUTO,
        tooltip="auto: what the model is made for. unipc: the official solver. dpm++: the official "
        "alternative. The others are ComfyUI's own.",
    ),
    "scheduler": Row(
        Choice,
        options=lambda: [AUTO, *samplers.scheduler_names()],
        default=AUTO,
        tooltip="How noise levels are spaced. auto: as the preset or the model wants. wan: the "
        "official list of the chosen sampler. The others are ComfyUI's own, with this shift.",
    ),
    "shift": Row(
        io.Float,
        default=0.0,
        min=-1.0,
        max=100.0,
        step=0.5,
        round=0.01,
        tooltip="Higher values spend more steps on layout and motion, lower ones on detail. 0: as "
        "the model is made for, or that of ModelSamplingSD3 in front.",
    ),
    "boundary": Row(
        io.Float,
        advanced=True,
        default=0.0,
        min=-1.0,
        max=1.0,
        step=0.005,
        round=0.0001,
        tooltip="Noise level at which the low-noise expert takes over. 0: official. The step at "
        "which that happens is shown.",
    ),
    "denoise": Row(
        io.Float,
        default=1.0,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip="1 makes a new video. Less keeps that much of the latent that comes in, as in "
        "KSampler.",
    ),
    "start_at_step": Row(
        io.Int,
        advanced=True,
        default=0,
        min=0,
        max=10000,
        tooltip="First step to run. Above 0 it continues a run that another node began; set "
        "add_noise to disable then.",
    ),
    "end_at_step": Row(
        io.Int,
        advanced=True,
        default=10000,
        min=0,
        max=10000,
        tooltip="Step to stop before. Lower it to hand the rest to another node, with "
        "return_with_leftover_noise enabled. Exact with euler.",
    ),
    "add_noise": Row(
        Choice,
        advanced=True,
        options=["enable", "disable"],
        default="enable",
        tooltip="Choose disable only when the latent already holds the noise of an earlier, "
        "unfinished run.",
    ),
    "return_with_leftover_noise": Row(
        Choice,
        advanced=True,
        options=["disable", "enable"],
        default="disable",
        tooltip="Choose enable when a run stops early and another node continues it.",
    ),
    "preset": Row(
        Choice,
        options=preset_names,
        default=AUTO,
        optional=True,
        tooltip="Fills in what is 0 or auto; numbers that you type stay. auto: what the model or "
        "its LoRA is made for. The node shows what is set.",
    ),
    "start_steps": Row(
        io.Int,
        advanced=True,
        default=0,
        min=0,
        max=10000,
        optional=True,
        tooltip="First steps that model_start samples; without a model_start, model_high without "
        "its LoRA for few steps. 0: the preset's, or 1 with a model_start.",
    ),
    "cfg_start": Row(
        io.Float,
        advanced=True,
        default=0.0,
        min=0.0,
        max=100.0,
        step=0.1,
        round=0.01,
        optional=True,
        tooltip="Guidance scale of these first steps. 0: the preset's, else the official value of "
        "the high-noise expert.",
    ),
    "width": Row(
        io.Int,
        default=832,
        min=Steps(16, _check_side, "a multiple of 16"),
        max=MAX_SIDE,
        step=16,
        tooltip="Width in pixels, used when size is 'width x height'. A multiple of 16 for 14B, of "
        "32 for 5B.",
    ),
    "height": Row(
        io.Int,
        default=480,
        min=Steps(16, _check_side, "a multiple of 16"),
        max=MAX_SIDE,
        step=16,
        tooltip="Height in pixels, used when size is 'width x height'. A multiple of 16 for 14B, "
        "of 32 for 5B.",
    ),
    "length": Row(
        io.Int,
        default=81,
        min=Steps(1, check_frames, "4n+1"),
        max=MAX_LENGTH,
        step=4,
        tooltip="Number of frames, used when seconds is 0: 4n+1, such as 81 (5 s at 16 fps, 14B) "
        "or 121 (5 s at 24 fps, 5B).",
    ),
    "batch_size": Row(
        io.Int,
        default=1,
        min=1,
        max=64,
        tooltip="Number of videos per run, each with a different seed. Memory grows with it.",
    ),
    "size_mode": Row(
        Choice,
        options=[CROP, KEEP_ASPECT],
        default=CROP,
        optional=True,
        tooltip="crop to size: exactly width x height. keep aspect: that many pixels in the shape "
        "of the image, as the official code does.",
    ),
    "size": Row(
        Choice,
        options=[FREE, *SIZES],
        default=FREE,
        optional=True,
        tooltip="The sizes that the models were trained on. 'shape of the image' crops at most a "
        "few pixels; 'width x height' takes the numbers.",
    ),
    "seconds": Row(
        io.Float,
        default=0.0,
        min=0.0,
        max=300.0,
        step=0.5,
        round=0.01,
        optional=True,
        tooltip="Length in seconds: 16 fps for 14B, 24 fps for 5B. Clips longer than 5 s tend to "
        "loop. 0: length counts.",
    ),
    "motion_amplitude": Row(
        io.Float,
        default=1.0,
        min=0.5,
        max=2.0,
        step=0.05,
        round=0.001,
        optional=True,
        tooltip="More motion for I2V with a 4-step LoRA, which is often slow: try 1.15. 1: off.",
    ),
    "previous_frames": Row(
        io.Int,
        default=1,
        min=Steps(1, check_frames, "4n+1"),
        max=81,
        step=4,
        optional=True,
        advanced=True,
        tooltip="Frames of previous_latent that the video begins with, 4n+1. 1: what the models "
        "were trained on. 5 tells them the motion, too.",
    ),
    "vram_budget_gb": Row(
        io.Float,
        default=0.0,
        min=0.0,
        max=1024.0,
        step=0.5,
        round=0.01,
        tooltip="GiB of VRAM for weights and video together. 0: what is free when sampling starts. "
        "Less leaves room for other programs.",
    ),
    "blocks_to_swap": Row(
        io.Int,
        default=-1,
        min=-1,
        max=40,
        tooltip="How many of the model's blocks stream to the GPU in every step instead of staying "
        "there. -1: as few as fit.",
    ),
    "pinned_ram_gb": Row(
        io.Float,
        default=-1.0,
        min=-1.0,
        max=1024.0,
        step=0.5,
        round=0.01,
        tooltip="GiB of RAM held for weights while sampling. -1: as little as keeps copies from "
        "slowing the run.",
    ),
    "prefetch_blocks": Row(
        io.Int,
        default=-1,
        min=-1,
        max=40,
        tooltip="How many blocks are fetched ahead, each in VRAM of its own. -1: automatic. 0 "
        "waits for every block; use it for measurements only.",
    ),
    "method": Row(
        Choice,
        options=list(STEP_CACHE_METHODS),
        default="auto",
        tooltip="easycache and magcache skip whole steps, cfg skips only the negative prompt's "
        "half of a step. auto: easycache together with cfg.",
    ),
    "threshold": Row(
        io.Float,
        default=0.0,
        min=0.0,
        max=1.0,
        step=0.005,
        round=1e-7,
        tooltip="How much error a skipped step may bring. Higher skips more and changes the video "
        "more. 0: the method's own value.",
    ),
    "nag_scale": Row(
        io.Float,
        default=11.0,
        min=1.0,
        max=100.0,
        step=0.5,
        tooltip="How strongly to stay away from the negative prompt. 1: not at all.",
    ),
    "nag_alpha": Row(
        io.Float,
        default=0.25,
        min=0.0,
        max=1.0,
        step=0.05,
        tooltip="How much of the effect is used, from 0 (nothing) to 1 (all).",
    ),
    "nag_tau": Row(
        io.Float,
        default=2.5,
        min=1.0,
        max=100.0,
        step=0.1,
        tooltip="Limits the effect everywhere in the image. Lower it if colours become too strong.",
    ),
    "start_percent": Row(
        io.Float,
        default=0.15,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip="Share of the run that is always computed at the beginning, where layout and "
        "motion are decided.",
    ),
    "end_percent": Row(
        io.Float,
        default=0.95,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip="Share of the run after which every step is computed again.",
    ),
    "mode": Row(
        Choice,
        options=list(get_args(Mode)),
        default="default",
        tooltip="default is ready in seconds. max-autotune-no-cudagraphs also searches for faster "
        "kernels, which takes minutes once.",
    ),
    "tiling": Row(
        Choice,
        options=["auto", "off", "on"],
        default="auto",
        tooltip="auto: tiles only when memory is short. off: never, exact. on: always, least "
        "memory, faint seams possible.",
    ),
}
