"""Every number and choice that a node shows, in one table: type, range, default, explanation.

A node's sockets, and what its choices mean, are in its own file. Loaders' widgets depend on files.
"""

from collections.abc import Mapping
from inspect import signature
from typing import Any, get_args

from comfy_api.latest import io

from ..wan_model.dit.compiled_stages import Mode
from ..wan_model.sampling import STEP_CACHE_METHODS
from ..wan_model.shapes import check_frames, check_size
from ._comfy.sampling import samplers
from .checked_inputs import Choice, Least, Steps
from .video_size import FREE, IMAGE_SHAPE, SIZES

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
        tooltip="Steps over both experts together. 0: the official number, 40 for A14B and 50 for "
        "5B. 20 is a good compromise; models with a 4-step LoRA want 4.",
    ),
    "cfg_high": Row(
        io.Float,
        default=0.0,
        min=-1.0,
        max=100.0,
        step=0.1,
        round=0.01,
        tooltip="Guidance scale of the high-noise expert. 0: the official value, 4 for T2V, 3.5 "
        "for I2V, 5 for 5B. 1 ignores the negative prompt and halves the time: right for 4-step "
        "LoRAs.",
    ),
    "cfg_low": Row(
        io.Float,
        default=0.0,
        min=-1.0,
        max=100.0,
        step=0.1,
        round=0.01,
        tooltip="Guidance scale of the low-noise expert. 0: the official value, 3 for T2V, 3.5 "
        "for I2V. 1 ignores the negative prompt and halves the time: right for 4-step LoRAs.",
    ),
    "sampler": Row(
        Choice,
        options=samplers.sampler_names,
        default="unipc",
        tooltip="unipc: the official solver. dpm++: the official alternative. euler: for "
        "4-step LoRAs. The others are ComfyUI's; its uni_pc and dpmpp_2m are not the official "
        "ones.",
    ),
    "scheduler": Row(
        Choice,
        options=samplers.scheduler_names,
        default="wan",
        tooltip="Spacing of the noise levels. wan: the official list of the chosen sampler. The "
        "others are ComfyUI's schedulers with this shift; simple is nearly the official list of "
        "DPM++.",
    ),
    "shift": Row(
        io.Float,
        default=0.0,
        min=-1.0,
        max=100.0,
        step=0.5,
        round=0.01,
        tooltip="Moves steps towards high noise. 0: the official value, 12 for T2V, 5 for I2V and "
        "5B, or that of ModelSamplingSD3 in front. 4-step LoRAs are made for 5; 3 is advised for "
        "I2V at 480p.",
    ),
    "boundary": Row(
        io.Float,
        advanced=True,
        default=0.0,
        min=-1.0,
        max=1.0,
        step=0.005,
        round=0.0001,
        tooltip="Noise level (sigma) below which the low-noise expert takes over. 0: the official "
        "value, 0.875 for T2V, 0.9 for I2V. The step follows from the schedule and is shown.",
    ),
    "denoise": Row(
        io.Float,
        default=1.0,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip="1 makes a new video. Less keeps that much of the latent's own content: the last "
        "part of a longer schedule is run, as in KSampler.",
    ),
    "start_at_step": Row(
        io.Int,
        advanced=True,
        default=0,
        min=0,
        max=10000,
        tooltip="First step to run. Above 0 to continue a run that another node began: give "
        "the same settings there, and add_noise disable here.",
    ),
    "end_at_step": Row(
        io.Int,
        advanced=True,
        default=10000,
        min=0,
        max=10000,
        tooltip="Step to stop before. Below the number of steps to hand the rest to another "
        "node, with return_with_leftover_noise enable. Exact with euler; multistep samplers "
        "restart.",
    ),
    "add_noise": Row(
        Choice,
        advanced=True,
        options=["enable", "disable"],
        default="enable",
        tooltip="disable only where the latent already holds the noise of an earlier, "
        "unfinished run.",
    ),
    "return_with_leftover_noise": Row(
        Choice,
        advanced=True,
        options=["disable", "enable"],
        default="disable",
        tooltip="enable to keep the remaining noise in a run that stops early, so that another "
        "node can continue it.",
    ),
    "width": Row(
        io.Int,
        default=832,
        min=Steps(16, _check_side, "a multiple of 16"),
        max=MAX_SIDE,
        step=16,
        tooltip="Pixels, a multiple of 16 (A14B) or 32 (5B). Trained sizes: 832x480 "
        "and 1280x720 for A14B, 1280x704 for 5B, and portrait.",
    ),
    "height": Row(
        io.Int,
        default=480,
        min=Steps(16, _check_side, "a multiple of 16"),
        max=MAX_SIDE,
        step=16,
        tooltip="Pixels, a multiple of 16 (A14B) or 32 (5B). Memory and time grow "
        "faster than the number of pixels.",
    ),
    "length": Row(
        io.Int,
        default=81,
        min=Steps(1, check_frames, "4n+1"),
        max=MAX_LENGTH,
        step=4,
        tooltip="Frames, 4n+1. 81 is 5 seconds at 16 fps (A14B), 121 is 5 seconds at "
        "24 fps (5B). Clips longer than 5 s tend to loop.",
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
        tooltip="crop to size: the video is exactly width x height. keep aspect: width "
        "x height is taken as an area, and the image's own aspect decides the sides, "
        "as the official code does. Without an image both are the same.",
    ),
    "size": Row(
        Choice,
        options=[FREE, *SIZES],
        default=FREE,
        optional=True,
        tooltip="Trained sizes, whatever width, height and size_mode say. 480p: 832 x 480, square "
        "624 x 624. 720p: 1280 x 720, square 960 x 960; for 5B, which is made for 720p, 1280 x "
        f"704. {IMAGE_SHAPE}: as many pixels, with the image's aspect, so nearly nothing is "
        f"cropped. {FREE}: the numbers count.",
    ),
    "seconds": Row(
        io.Float,
        default=0.0,
        min=0.0,
        max=300.0,
        step=0.5,
        round=0.01,
        optional=True,
        tooltip="Length in seconds instead of frames: at 16 fps for A14B, 24 fps for 5B. 5 is what "
        "the models were trained on. 0: length counts. The node shows the frames.",
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
        tooltip="VRAM that sampling may take in all, weights and video, in GiB. 0: what is "
        "free when sampling starts. A budget below that leaves the rest to other programs.",
    ),
    "blocks_to_swap": Row(
        io.Int,
        default=-1,
        min=-1,
        max=40,
        tooltip="Transformer blocks that are streamed to the GPU in every step instead of "
        "staying there: 0 to 40 (A14B), 0 to 30 (5B). -1: as few as fit. A block "
        "travels while others compute.",
    ),
    "pinned_ram_gb": Row(
        io.Float,
        default=-1.0,
        min=-1.0,
        max=1024.0,
        step=0.5,
        round=0.01,
        tooltip="RAM in GiB that is taken for weights and that the system cannot use otherwise "
        "meanwhile. -1: 0.25, and up to 4 where copies would otherwise be slower than "
        "computing. All other weights are read from the file, which the system caches in free RAM.",
    ),
    "prefetch_blocks": Row(
        io.Int,
        default=-1,
        min=-1,
        max=40,
        tooltip="Blocks that are fetched ahead of the one that computes, each in VRAM of its "
        "own. -1: 2, or 1 where VRAM is short. 0 waits for every block: for measurements only.",
    ),
    "method": Row(
        Choice,
        options=list(STEP_CACHE_METHODS),
        default="auto",
        tooltip="easycache and magcache skip whole steps, by two estimates of the error. cfg "
        "skips the negative prompt's half of a step where its effect hardly changes. auto: "
        "easycache, and cfg in the steps that are computed.",
    ),
    "threshold": Row(
        io.Float,
        default=0.0,
        min=0.0,
        max=1.0,
        step=0.005,
        round=1e-7,
        tooltip="Relative error that may be estimated for a step that is not computed. More "
        "skips more and changes the video more. 0: the method's own, 0.05 for easycache and "
        "cfg, 0.06 for magcache.",
    ),
    "nag_scale": Row(
        io.Float,
        default=11.0,
        min=1.0,
        max=100.0,
        step=0.5,
        tooltip="How far to keep away from the negative prompt. 1: not at all.",
    ),
    "nag_alpha": Row(
        io.Float,
        default=0.25,
        min=0.0,
        max=1.0,
        step=0.05,
        tooltip="How much of it is used, from 0 (nothing) to 1.",
    ),
    "nag_tau": Row(
        io.Float,
        default=2.5,
        min=1.0,
        max=100.0,
        step=0.1,
        tooltip="Limit for every part of the image. Lower it if colours become too strong.",
    ),
    "start_percent": Row(
        io.Float,
        default=0.15,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip="Part of the run's steps to compute in any case at the beginning, where layout "
        "and motion are decided. The first three steps of each expert are always computed.",
    ),
    "end_percent": Row(
        io.Float,
        default=0.95,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip="Part of the run's steps after which everything is computed. The last step is "
        "always computed.",
    ),
    "mode": Row(
        Choice,
        options=list(get_args(Mode)),
        default="default",
        tooltip="Mode of torch.compile. default is ready in seconds. "
        "max-autotune-no-cudagraphs also looks for faster kernels for the matmuls, "
        "which takes minutes once.",
    ),
    "tiling": Row(
        Choice,
        options=["auto", "off", "on"],
        default="auto",
        tooltip="auto: tiles when free memory is too small for whole frames. off: "
        "never, exact. on: always, tiles of 256 pixels, least memory, faint seams "
        "possible.",
    ),
}
