"""How much of a video a forward pass sees under context windows, and how many passes a step takes.

A handler lies in a MODEL's options and calls the model once for each of its windows, so a pass
needs the memory of one. Latents, noise and conditions stay as long as the video. Of a handler that
is not known here it is taken that it shows all of a video at once.
"""

import statistics
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

try:
    from comfy import context_windows
except ImportError:
    context_windows = None

KEY = "wanduet.window_work"
TIME = 2
"""Dimension of latent frames."""

SOME_STEPS = 8
FP32 = 4
LATENTS = 12
"""Tensors of a latent's size that a usual run holds while the model predicts: noise as drawn and as
FreeNoise orders it, given latent and mask, a solver's sample and up to four of its history, sums of
both prompts, a preview's. Not counted: the dozens that SDE solvers keep to draw their noise on the
GPU, and what other nodes add, such as a control video's latents or a step cache."""

LATENTS_LATER = 3
"""Of these, the ones that come and go with each prediction: sums of both prompts, the result."""

EXPERTS = 2
"""Each has conditions of its own."""


@dataclass(frozen=True)
class RunBytes:
    """What a run takes beside its forward passes."""

    whole: int = 0
    later: int = 0
    """Of it, what is not there yet when another expert takes over on the same device."""


@dataclass(frozen=True)
class Cut:
    """A video that is about to be sampled in windows."""

    shape: tuple[int, ...]
    """(B, C, T, H, W) of its latent."""
    seen: int
    """Latent frames of one forward pass."""
    conditions: int = 2
    """How many an expert is given: of both prompts together."""

    def of_pass(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Returns the shape of a pass for which ComfyUI was asked for this one."""
        return (*shape[:TIME], self.seen, *shape[TIME + 1 :])

    def beside_bytes(self, cond_channels: int) -> int:
        """Returns what the rest of the video takes that a pass does not see.

        Args:
            cond_channels: of an image's condition, which every condition has.
        """
        channels = LATENTS * self.shape[1] + EXPERTS * self.conditions * cond_channels
        return self._bytes(channels, max(0, self.shape[TIME] - self.seen))

    def later_bytes(self, cond_channels: int) -> int:
        """Returns what another expert adds when it takes over on the same device."""
        channels = LATENTS_LATER * self.shape[1] + self.conditions * cond_channels
        return self._bytes(channels, self.shape[TIME] if self.shape[TIME] > self.seen else 0)

    def _bytes(self, channels: int, frames: int) -> int:
        batch, _, _, height, width = self.shape
        return batch * channels * frames * height * width * FP32


def frames_seen(handler: Any, frames: int) -> int:
    """Returns the latent frames that the model sees at once of so many; all, if it is not known."""
    if not _cuts(handler, frames):
        return frames
    if hasattr(handler, "frames_at_once"):
        return handler.frames_at_once(frames)
    # Newer cores show the frame before a window, too.
    return min(frames, handler.context_length + bool(getattr(handler, "causal_window_fix", False)))


def windows_per_step(handler: Any, frames: int, steps: int) -> float | None:
    """Returns how often the model is called for one prompt in a step; None if it is not known.

    Args:
        handler: of a MODEL's options, or None.
        frames: of the whole latent.
        steps: of the run. Windows that move differ by one from step to step: some are asked for.
    """
    cuts = False if handler is None else _cuts(handler, frames)
    if not cuts:
        return None if cuts is None else 1.0
    asked: Any = copy(handler)
    counts = []
    for asked._step in range(max(1, min(steps, SOME_STEPS))):
        counts.append(len(asked.context_schedule.func(frames, asked, {})))
    return statistics.fmean(counts)


def _cuts(handler: Any, frames: int) -> bool | None:
    """Tells whether a video of so many latent frames is cut into windows; None: not known."""
    if hasattr(handler, "cuts"):
        return handler.cuts(frames)
    return frames > handler.context_length if _is_cores(handler) else None


def _is_cores(handler: Any) -> bool:
    """Whether a handler is core's own and cuts in time, in a way that it can itself."""
    return (
        context_windows is not None
        and type(handler) is context_windows.IndexListContextHandler
        and handler.dim == TIME
        and 0 <= handler.context_overlap < handler.context_length
        and handler.context_schedule.name in context_windows.CONTEXT_MAPPING
    )


def note_windows(
    executor: Any,
    model: Any,
    noise_shape: Sequence[int],
    conds: Any,
    model_options: Any = None,
    **more: Any,
) -> Any:
    """Has memory planned for one window: put around a MODEL's preparation for sampling.

    Others around it may have a shape cut for themselves; what counts is the handler that will run.
    """
    handler = (model_options or {}).get("context_handler")
    base, shape = model.model, tuple(noise_shape)
    if handler is not None and len(shape) == TIME + 3:
        count = sum(len(entries) for entries in conds.values())
        base.cut = Cut(shape, frames_seen(handler, shape[TIME]), count)
    try:
        return executor(model, noise_shape, conds, model_options=model_options, **more)
    finally:
        base.cut = None
