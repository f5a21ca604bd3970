"""Several prompts over the time of a video, on MODELs of ours and of core: what CONDITIONING holds.

They travel in ComfyUI's own hook of transformer options. Our blocks are given them with their
inputs. Core's model gets them all as one long text, and its attention is overridden as its options
provide for: where it attends to that text, each token attends to its frame's part of it.

Shape legend: B batch, L tokens, S text tokens, C hidden width, N prompts, T latent frames.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import comfy.hooks
import torch
from comfy.ldm.wan.model import WanModel
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....wan_model.attention import FirstPasses
from ....wan_model.dit import WanDiT
from ....wan_model.dit.scheduled_text import ScheduledText, Stretch, blended, stretches
from ....wan_model.errors import PairingError
from ....wan_model.timed_text import TimedText, weights_of_frames
from ..host import runtime
from .core_hooks import ATTENTION

SCHEDULE = "wanduet.prompt_schedule"
"""Transformer option: the `TimedPrompts` of a conditioning."""

TIME = 2
"""Dimension of time in a latent."""


def with_schedule(prompts: "TimedPrompts") -> list[Any]:
    """Returns a CONDITIONING of several prompts over time."""
    wrappers = {WrappersMP.DIFFUSION_MODEL: {SCHEDULE: [_prepare_core]}}
    hook = comfy.hooks.TransformerOptionsHook(
        {SCHEDULE: prompts, "wrappers": wrappers},  # pyright: ignore[reportArgumentType]
        hook_scope=comfy.hooks.EnumHookScope.HookedOnly,
    )
    group = comfy.hooks.HookGroup()
    group.add(hook)
    return comfy.hooks.set_hooks_for_conditioning([[prompts.embeddings[:1], {}]], group)


@dataclass(frozen=True)
class TimedPrompts:
    """Prompts, their embeddings and their parts of the video."""

    texts: tuple[TimedText, ...]
    embeddings: Tensor
    """fp32 (N, S, text_dim)."""
    transition: float
    """Frames of the video from one prompt to the next."""
    first_passes: FirstPasses = field(default_factory=FirstPasses)
    """Of all runs with these prompts."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "TimedPrompts":
        """Older versions of ComfyUI copy options with everything in them."""
        return self

    def at(
        self,
        options: dict[str, Any],
        embed: Callable[[Tensor], Tensor],
        grid: tuple[int, int, int],
        device: torch.device,
    ) -> ScheduledText:
        """Returns how the tokens of one forward pass attend to text.

        Args:
            options: ComfyUI's transformer options, which say what part of a long video it is.
            embed: the model's embedding of text.
            grid: tokens along time, height and width.
            device: that computes.
        """
        parts = stretches(self.weights(options, grid[0]), grid[1] * grid[2])
        return ScheduledText(embed(self.embeddings.to(device)), parts)

    def weights(self, options: dict[str, Any], count: int) -> list[list[float]]:
        """Returns the weights (T, N) of a forward pass over `count` latent frames."""
        frames, total = _frames(options, count)
        if total and self.first_passes.include(options.get("sample_sigmas"), (SCHEDULE, total)):
            self._name_unused(total)
        return weights_of_frames(self.texts, frames, self.transition)

    def _name_unused(self, total: int) -> None:
        """Says which prompts a video of so many latent frames has no frame for."""
        weights = weights_of_frames(self.texts, range(total), self.transition)
        unused = [i for i in range(len(self.texts)) if not any(row[i] for row in weights)]
        if unused:
            numbers = ", ".join(str(number + 1) for number in unused)
            runtime.show(
                runtime.running_node(),
                f"Prompt {numbers} of the schedule has no frame in this video. Got ranges from "
                f"frame {self.texts[unused[0]].start:g} on, need them within {4 * total - 3} "
                "frames. Change the range, or make the video longer.",
                level=logging.WARNING,
            )


def _frames(options: dict[str, Any], count: int) -> tuple[list[int], int | None]:
    """Returns which latent frames of the video a pass computes, and how many those are in all.

    Of videos in context windows, older versions of ComfyUI do not tell the latter.
    """
    window = options.get("context_window")
    if window is None or window.dim != TIME:
        return list(range(count)), count
    frames = list(window.index_list)
    anchor = getattr(window, "causal_anchor_index", None)
    if anchor is not None and anchor >= 0:
        frames.insert(0, anchor)
    # What a model is given beside the window's frames comes behind them.
    frames += [frames[-1]] * (count - len(frames))
    return frames[:count], getattr(window, "total_frames", 0) or None


def _prepare_core(
    executor: Any, x: Tensor, timestep: Tensor, context: Tensor, *args: Any, **kwargs: Any
) -> Any:
    """Gives core's model all prompts as one text, and overrides how it attends to that."""
    model = executor.class_obj
    options = kwargs.get("transformer_options") or next(
        one for one in args if isinstance(one, dict) and SCHEDULE in one
    )
    if isinstance(model, WanDiT):  # `ForwardPass` does it
        return executor(x, timestep, context, *args, **kwargs)
    if not isinstance(model, WanModel):
        raise PairingError(
            f"Prompts over time need a Wan model. Got {type(model).__name__}, need Wan 2.2. Load "
            "it with 'Wan 2.2 Load Model', or connect 'Wan 2.2 Prompt' in place of the schedule."
        )
    prompts: TimedPrompts = options[SCHEDULE]
    frames, height, width = x.shape[TIME], -(-x.shape[3] // 2), -(-x.shape[4] // 2)
    weights = prompts.weights(options, frames)
    text = prompts.embeddings.to(context)
    count, length = text.shape[:2]
    if count * length == frames * height * width:
        # Only their number tells keys of the text from those of the video.
        text = torch.cat((text, text[-1:]))
    given = kwargs.get("reference_latent") is not None
    plan = CorePlan(weights, length, text.shape[0] * length, height * width, given)
    earlier = options.get(ATTENTION)
    options[ATTENTION] = partial(_attend, plan, earlier)
    context = text.flatten(0, 1).expand(len(x), -1, -1)
    return executor(x, timestep, context, *args, **kwargs)


@dataclass(frozen=True)
class CorePlan:
    """How core's tokens attend to several prompts."""

    weights: Sequence[Sequence[float]]
    """(T, N)."""
    length: int
    """S."""
    keys: int
    """Of all prompts."""
    tokens_per_frame: int
    has_reference: bool
    """Whether an image's tokens are before those of the video."""

    def parts(self, tokens: int) -> tuple[Stretch, ...]:
        """Returns which tokens attend to what; further frames are as their neighbours."""
        more = tokens // self.tokens_per_frame - len(self.weights)
        before = [self.weights[0]] * min(more, int(self.has_reference))
        behind = [self.weights[-1]] * (more - len(before))
        return stretches([*before, *self.weights, *behind], self.tokens_per_frame)


def _attend(
    plan: CorePlan,
    earlier: Callable[..., Tensor] | None,
    func: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """Core's attention of (B, L, C), overridden where it is to the prompts."""
    attend = func if earlier is None else partial(earlier, func)
    if k.shape[1] != plan.keys or kwargs.get("skip_reshape"):
        return attend(q, k, v, *args, **kwargs)

    def attended(number: int, of: Tensor) -> Tensor:
        keys = slice(number * plan.length, (number + 1) * plan.length)
        return attend(of, k[:, keys], v[:, keys], *args, **kwargs)

    return blended(plan.parts(q.shape[1]), q, slice(0, q.shape[1]), attended)
