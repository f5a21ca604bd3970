"""ComfyUI's context windows for Wan: long videos in windows of time, and loops.

The handler is core's. What is added are the frames that a window's model sees beside its own, and,
for older versions of core, conditions that lie in time. A Wan latent's first frame is one frame of
video and the others are four, so a window that began with any other frame would show it to the
model as what it is not: the model is shown the frame before the window first, and its result is
dropped. The first window is shown the one after it instead, so that all are of one length.
"""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....wan_model.errors import SettingsError
from ....wan_model.sampling import free_noise
from ..model.window_work import TIME, frames_seen

try:
    from comfy import context_windows
except ImportError:
    context_windows = None

KEY = "wanduet.context_windows"
SHIFT = 0.381966
"""Of a loop from step to step, as a share of its length: the golden section never repeats."""

SLACK = 1e-4
"""Relative, of a noise level that is a step's."""

UNIFORM, STATIC = "uniform", "static"
SCHEDULES = {UNIFORM: "standard_uniform", STATIC: "standard_static"}
"""Ours, and core's names."""


def _takes(kind: Any, name: str) -> bool:
    return name in signature(kind.__init__).parameters


_BASE: Any = object if context_windows is None else context_windows.IndexListContextHandler
_WINDOW: Any = object if context_windows is None else context_windows.IndexListContextWindow
NEWER = {"causal_window_fix": False} if _takes(_BASE, "causal_window_fix") else {}
"""Newer cores show the frame before by themselves, but none to the first window."""


@dataclass(frozen=True)
class Windows:
    """How a video is cut. Lengths in latent frames."""

    length: int
    """That the model sees at once."""
    overlap: int
    schedule: str
    free_noise: bool
    loop: bool
    keep_image: bool
    """Show the given first frame in every window."""

    @property
    def own_frames(self) -> int:
        """Of a window, without the one beside it that the model sees, too."""
        return self.length - 1


class WanWindows(_BASE):
    """Core's handler, for latents (B, C, T, H, W)."""

    def __init__(self, windows: Windows, image_in_latent: bool) -> None:
        """Makes the handler.

        Args:
            windows: how the video is cut.
            image_in_latent: if a first frame is given, it lies in the latent (TI2V-5B), not beside
                it.
        """
        assert context_windows is not None
        core = context_windows
        name = SCHEDULES[windows.schedule]
        schedule = core.get_matching_context_schedule(name)
        if windows.loop:
            schedule = core.ContextSchedule("wanduet.loop", loop_windows)
        super().__init__(
            schedule,
            core.get_matching_fuse_method(core.ContextFuseMethods.PYRAMID),
            context_length=windows.own_frames,
            context_overlap=windows.overlap,
            closed_loop=windows.loop,
            dim=TIME,
            **NEWER,
        )
        self.windows, self.image_in_latent = windows, image_in_latent
        self.has_image = False
        """Whether the running video's latent begins with a given frame."""

    def should_use_context(self, model: Any, conds: Any, x_in: Tensor, *_: Any) -> bool:  # noqa: ARG002
        """Tells whether a latent is longer than a window, or a loop."""
        return self.cuts(x_in.shape[TIME])

    def cuts(self, frames: int) -> bool:
        """Tells the same of a number of latent frames."""
        return self.windows.loop or frames > self.windows.length

    def frames_at_once(self, frames: int) -> int:
        """Returns the latent frames that the model sees of so many that are cut."""
        # A loop that is one window is seen with the frame before it, too.
        return frames + 1 if frames <= self.windows.length else self.windows.length

    def execute(
        self,
        calc_cond_batch: Callable[..., Any],
        model: Any,
        conds: Any,
        x_in: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any],
    ) -> Any:
        """Returns the predictions of all windows, blended."""

        def calc(model: Any, conds: Any, x: Tensor, _: Tensor, options: dict[str, Any]) -> Any:
            window = options["transformer_options"]["context_window"]
            results = calc_cond_batch(model, conds, x, timestep, options)
            return [window.own_part(result) for result in results]

        self.has_image = self.image_in_latent and _first_frame_is_given(conds)
        # Core would cut the samples' timesteps into windows, too. They are all the same.
        return super().execute(calc, model, conds, x_in, timestep[:1], model_options)

    def set_step(self, timestep: Tensor, model_options: dict[str, Any]) -> None:
        """Finds out which step this is; some samplers look between two, which older cores refuse.

        Args:
            timestep: sigmas of the samples, all the same.
            model_options: with the run's sigmas.
        """
        sigmas = model_options["transformer_options"]["sample_sigmas"]
        least = timestep.flatten()[0].item() * (1 - SLACK)
        self._step = max(0, int((sigmas >= least).sum()) - 1)

    def get_context_windows(self, model: Any, x_in: Tensor, model_options: Any) -> Any:
        """Returns this step's windows."""
        windows = super().get_context_windows(model, x_in, model_options)
        return [_Window(window.index_list, x_in, self) for window in windows]

    def get_resized_cond(self, cond_in: Any, x_in: Tensor, window: Any, device: Any = None) -> Any:
        """Returns the part of a conditioning that belongs to a window."""
        resized = super().get_resized_cond(cond_in, x_in, window, device)
        for cond in resized or ():
            for name, value in cond.get("model_conds", {}).items():
                tensor = getattr(value, "cond", None)
                if isinstance(tensor, Tensor) and window.is_whole(tensor):
                    cut = window.get_tensor(tensor, device)
                    cond["model_conds"][name] = value._copy_with(cut)
        return resized


class _Window(_WINDOW):
    """A window and the frame beside it, which the model sees, too."""

    def __init__(self, frames: list[int], x: Tensor, handler: WanWindows) -> None:
        total = x.shape[TIME]
        more = {"total_frames": total} if _takes(_WINDOW, "total_frames") else {}
        super().__init__(frames, dim=TIME, **more)
        self.total, self.latent_channels = total, x.shape[1]
        self.keep_image = handler.windows.keep_image
        self.has_image = handler.has_image
        self.before = [(frames[0] - 1) % total] if frames[0] or handler.windows.loop else []
        after = frames[-1] + 1
        self.after = [after] if not self.before and after < total else []

    def is_whole(self, tensor: Tensor) -> bool:
        """Tells whether a tensor lies in time and has not been cut yet."""
        return tensor.ndim == 5 and tensor.shape[TIME] == self.total

    def get_tensor(
        self, full: Tensor, device: Any = None, dim: int | None = None, **_: Any
    ) -> Tensor:
        """Returns what the model sees of a tensor; what does not lie in time is returned whole."""
        if dim == 0 or not self.is_whole(full):
            return full.to(device)
        part = full[:, :, [*self.before, *self.index_list, *self.after]]
        is_latent = full.shape[1] == self.latent_channels
        if self.keep_image and (self.has_image or not is_latent):
            part[:, :, 0] = full[:, :, 0]
        return part.to(device)

    def own_part(self, result: Tensor) -> Tensor:
        """Returns a result without the frame beside the window."""
        return result.narrow(TIME, len(self.before), len(self.index_list))


def _first_frame_is_given(conds: Any) -> bool:
    """Tells whether the sampler keeps a first frame: TI2V-5B is given the mask of it."""
    given = (cond.get("model_conds", {}) for part in conds for cond in part or ())
    masks = (getattr(values.get("denoise_mask"), "cond", None) for values in given)
    return any(
        isinstance(mask, Tensor) and mask.ndim == 5 and bool((mask[:, :, 0] < 1).any())
        for mask in masks
    )


def loop_windows(frames: int, handler: Any, _model_options: Any = None) -> list[list[int]]:
    """Returns windows (lists of latent frames) that go round a loop.

    In every step they begin elsewhere, so that no place stays a beginning (Bi et al., Mobius,
    arXiv 2502.20307, shifts the latent for the same reason).

    Args:
        frames: of the loop; no more than a window make one window of all.
        handler: `WanWindows`, with its step and lengths.
    """
    start = round(handler._step * SHIFT * frames)
    length = frames if frames <= handler.windows.length else handler.context_length
    stride = frames if length == frames else length - handler.context_overlap
    return [
        [(start + first + place) % frames for place in range(length)]
        for first in range(0, frames, stride)
    ]


def with_context_windows(model: ModelPatcher, windows: Windows, channels: int) -> ModelPatcher:
    """Returns a clone of a MODEL, ours or core's, that sees a long video in windows.

    Args:
        model: unchanged.
        windows: how the video is cut.
        channels: of the model's latents.

    Raises:
        SettingsError: if this version of ComfyUI has no context windows.
    """
    if context_windows is None:
        raise SettingsError(
            "This version of ComfyUI has no context windows. Got one without "
            "comfy/context_windows.py, need 0.3.49 or newer. Update ComfyUI."
        )
    clone = model.clone()
    handler = clone.model_options["context_handler"] = WanWindows(windows, channels == 48)
    clone.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, _MemoryOfOne(handler))
    if windows.free_noise:
        clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, _FreeNoise(windows))
    return clone


@dataclass(frozen=True)
class _MemoryOfOne:
    """Has a run's memory planned for one window, for core's MODELs: ours know by themselves."""

    handler: WanWindows

    def __call__(
        self, executor: Any, model: Any, noise_shape: Any, *args: Any, **kwargs: Any
    ) -> Any:
        shape = list(noise_shape)
        shape[TIME] = frames_seen(self.handler, shape[TIME])
        return executor(model, shape, *args, **kwargs)


@dataclass(frozen=True)
class _FreeNoise:
    """Gives a run the noise of FreeNoise."""

    windows: Windows

    def __call__(
        self,
        executor: Any,
        guider: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        windows, seed = self.windows, extra_args.get("seed") or 0
        if noise.ndim == 5 and noise.shape[TIME] > windows.length:
            noise = free_noise(noise, windows.own_frames, windows.overlap, seed)
        return executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)
