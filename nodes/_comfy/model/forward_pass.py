"""One forward pass under ComfyUI: everything that is attached to a MODEL, in a fixed order."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor

from ....wan_model.attention import AttentionFn, FirstPasses, Guarded, SparseSchedule
from ....wan_model.dit import BlockRunner, WanDiT
from ..host import runtime
from .patched_blocks import PatchedBlocks
from .sparse_steps import for_this_pass
from .unknown_hooks import unknown_hooks

COMPILED = "wanduet.compiled"
"""Transformer option: the CompiledStages that compile the blocks' stages."""

Velocity = Callable[[BlockRunner], Tensor]
"""Computes the velocity, given how the blocks are run."""


@dataclass(frozen=True)
class ForwardPass:
    """What happens around the transformer in one call of it.

    In this order, from outside to the blocks: wrappers of other nodes; a word on hooks that have
    no effect; the guard of low-precision attention; the weights engine; compiled stages; the
    attention of each layer in a sparse step; the block patches of other nodes. A hook of another
    kind gets a method here, and leaves the transformer as it is.
    """

    dit: WanDiT
    options: dict[str, Any]
    """ComfyUI's transformer options."""
    first_passes: FirstPasses
    """Of the model, over all its passes."""
    engine: Callable[[Velocity, BlockRunner], Tensor] | None
    """Brings weights to the device during a pass; None if they are all in place."""

    def wrapped(self, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Returns a method of the transformer inside the wrappers of other nodes."""
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, self.options)
        return WrapperExecutor.new_class_executor(forward, self.dit, wrappers).execute

    def run(self, velocity: Velocity) -> Tensor:
        """Returns the velocity."""
        self._name_unknown_hooks()
        attend, runner = self._at_this_step(PatchedBlocks(self.options))
        runner = self._compiled(runner)
        return self._guarded(attend, partial(self._with_weights, velocity, runner))

    def _name_unknown_hooks(self) -> None:
        """Says once in a run which hooks have no effect."""
        unknown = unknown_hooks(self.options, len(self.dit.blocks))
        if unknown and self.first_passes.include(self._run, ("unknown", *unknown)):
            _warn(
                f"Some patches have no effect on this model. Got {', '.join(unknown)}, need "
                "wrappers or replacements of whole blocks. Remove the node that adds them, or load "
                "the model with 'Load Diffusion Model'."
            )

    def _at_this_step(self, runner: BlockRunner) -> tuple[AttentionFn, BlockRunner]:
        attend = self.dit.attend
        if isinstance(attend, SparseSchedule):
            return for_this_pass(attend, self.options, runner)
        return attend, runner

    def _compiled(self, runner: BlockRunner) -> BlockRunner:
        stages = self.options.get(COMPILED)
        return runner if stages is None else stages.around(runner)

    def _with_weights(self, velocity: Velocity, runner: BlockRunner) -> Tensor:
        return velocity(runner) if self.engine is None else self.engine(velocity, runner)

    def _guarded(self, attend: AttentionFn, predict: Callable[[], Tensor]) -> Tensor:
        """Returns predict(), with exact attention if the given one breaks a first pass of a run."""
        if isinstance(attend, Guarded):
            kind = tuple(self.options.get("cond_or_uncond", ()))
            if self.first_passes.include(self._run, kind):
                return attend.check(predict, _warn)
        return predict()

    @property
    def _run(self) -> Any:
        """What a run is known by: its list of sigmas, which every sampler makes anew."""
        return self.options.get("sample_sigmas")


def _warn(text: str) -> None:
    runtime.show(runtime.running_node(), text, level=logging.WARNING)
