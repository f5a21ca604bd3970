"""One forward pass under ComfyUI: everything that is attached to a MODEL, in a fixed order."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor

from ....wan_model.attention import AttentionFn, FirstPasses, Guarded, SparseSchedule
from ....wan_model.dit import BlockFn, BlockInputs, BlockRunner
from ....wan_model.dit.expanded_blocks import with_expanded
from ....wan_model.dit.stage_choice import with_stages
from ....wan_model.dit.timesteps import sinusoid
from ..host import runtime
from .core_attributes import CoreAttributes
from .core_block import CoreBlock, core_way
from .core_hooks import has_patched_parts, is_patched
from .core_positions import OPTION as POSITIONS
from .core_positions import is_cores_own
from .core_shapes import CoreInputs, from_freqs
from .patched_blocks import PatchedBlocks
from .sparse_steps import for_this_pass
from .timed_prompts import SCHEDULE, TimedPrompts
from .unknown_hooks import unknown_hooks

if TYPE_CHECKING:
    from .comfy_dit import ComfyWanDiT

NEGATIVE = "wanduet.negative_text"
"""Transformer option: the `TextGuidance` of a MODEL."""

COMPILED = "wanduet.compiled"
"""Transformer option: the CompiledStages that compile the blocks' stages."""

TEXT_NODES = {NEGATIVE: "'Wan 2.2 NAG'", SCHEDULE: "'Wan 2.2 Prompt Schedule'"}
"""Options that change how tokens attend to text, and the nodes that set them."""

Velocity = Callable[[BlockRunner], Tensor]
"""Computes the velocity, given how the blocks are run."""


@dataclass(frozen=True)
class ModelInputs:
    """What the transformer is called with, for patches that want to see it."""

    x: Tensor
    """Latent and condition channels (B, C_in, T, H, W), of whole patches."""
    timestep: Tensor
    """(B,), or (B, T) one for each frame."""
    text: Tensor
    """Output of the text encoder (B, S, text_dim)."""

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens along time, height and width."""
        frames, height, width = self.x.shape[2:]
        return frames, height // 2, width // 2


@dataclass(frozen=True)
class ForwardPass:
    """What happens around the transformer in one call of it.

    In this order, from outside to the blocks: wrappers of other nodes; a word on hooks that have
    no effect; the guard of low-precision attention; the weights engine; weights that are expanded
    for a visit of their block; prompts over time; a negative prompt beside them; positions of
    tokens by other nodes; patches of other nodes inside of blocks; fused or compiled stages; the
    attention of each layer in a sparse step; the replacements of blocks by other nodes. A hook of
    another kind gets a method here, and leaves the transformer as it is.
    """

    dit: "ComfyWanDiT"
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

    def run(self, velocity: Velocity, inputs: ModelInputs) -> Tensor:
        """Returns the velocity.

        Args:
            velocity: computes it.
            inputs: what it is computed from.
        """
        self._name_unknown_hooks()
        self._tell_patches(inputs)
        blocks = PatchedBlocks(self.options, inputs.x, partial(self._time, inputs.timestep))
        attend, runner = self._at_this_step(blocks)
        runner = self._staged(runner)
        runner = self._with_core_blocks(runner, inputs)
        runner = self._positioned(runner, inputs)
        runner = with_expanded(self._scheduled(self._kept_from_negative(runner), inputs))
        return self._guarded(attend, partial(self._with_weights, velocity, runner))

    def _name_unknown_hooks(self) -> None:
        """Says once in a run which hooks have no effect, and refuses one that would have all."""
        if "forward_orig" in vars(self.dit):
            CoreAttributes.forward_orig(self.dit)
        unknown = unknown_hooks(self.options, len(self.dit.blocks))
        if unknown and self.first_passes.include(self._run, ("unknown", *unknown)):
            _show(
                f"Some patches have no effect on this model. Got {', '.join(unknown)}, need "
                "those that docs/compatibility.md lists. Remove the node that adds them, or load "
                "the model with 'Load Diffusion Model'.",
                logging.WARNING,
            )

    def _tell_patches(self, inputs: ModelInputs) -> None:
        """Puts into the options what patches for core's model read there."""
        self.options["grid_sizes"] = torch.Size(inputs.grid)
        self.options["total_blocks"] = len(self.dit.blocks)
        self.options["block_type"] = "double"

    def _time(self, timestep: Tensor) -> Tensor:
        """Returns the embedded timesteps (B, 1, C), or (B, T, C) one for each frame."""
        embedded = self.dit.time_embedding(sinusoid(timestep.flatten(), self.dit.freq_dim))
        return embedded.unflatten(0, (timestep.shape[0], -1))

    def _positioned(self, runner: BlockRunner, inputs: ModelInputs) -> BlockRunner:
        """Has tokens rotated as other nodes want it."""
        dit = self.dit
        own = is_cores_own(dit.rope_embedder, dit.config.head_dim) and not (
            self.options.get(POSITIONS) or "rope_encode" in vars(dit)
        )
        if own:
            return runner

        def run(blocks: Iterable[BlockFn], x: Tensor, given: BlockInputs, /) -> Tensor:
            sizes = inputs.x.shape[2:]
            where = {"device": x.device, "dtype": inputs.x.dtype}
            freqs = dit.rope_encode(*sizes, **where, transformer_options=self.options)
            return runner(blocks, x, replace(given, rotation=from_freqs(freqs)))

        return run

    def _kept_from_negative(self, runner: BlockRunner) -> BlockRunner:
        """Has tokens attend to a negative prompt, too."""
        guidance = self.options.get(NEGATIVE)
        if guidance is None:
            return runner

        def run(blocks: Iterable[BlockFn], x: Tensor, given: BlockInputs, /) -> Tensor:
            text = guidance.at(self.options, self.dit.embed_text, x)
            if text is not None:
                text = replace(text, attend_to_prompt=given.text_attention)
                given = replace(given, text_attention=text)
            return runner(blocks, x, given)

        return run

    def _scheduled(self, runner: BlockRunner, inputs: ModelInputs) -> BlockRunner:
        """Has tokens attend to the prompts of their frames."""
        prompts: TimedPrompts | None = self.options.get(SCHEDULE)
        if prompts is None:
            return runner

        def run(blocks: Iterable[BlockFn], x: Tensor, given: BlockInputs, /) -> Tensor:
            text = prompts.at(self.options, self.dit.embed_text, inputs.grid, x.device)
            return runner(blocks, x, replace(given, text_attention=text))

        return run

    def _with_core_blocks(self, runner: BlockRunner, inputs: ModelInputs) -> BlockRunner:
        """Has blocks with patches inside computed as core's."""
        patched = [number for number, block in enumerate(self.dit.blocks) if self._has_hooks(block)]
        if not patched:
            return runner
        self._say_what_is_left_out(len(patched))

        def run(blocks: Iterable[BlockFn], x: Tensor, given: BlockInputs, /) -> Tensor:
            core = CoreInputs(given, inputs.grid[0])
            return runner((core_way(block, self.options, core) for block in blocks), x, given)

        return run

    def _has_hooks(self, block: Any) -> bool:
        return isinstance(block, CoreBlock) and (is_patched(block) or block.has_hooks(self.options))

    def _say_what_is_left_out(self, count: int) -> None:
        """Says once in a run what patches keep blocks from."""
        left_out = []
        if COMPILED in self.options:
            left_out.append("'Wan 2.2 Torch Compile'")
        if isinstance(self.dit.attend, Guarded | SparseSchedule):
            left_out.append("8-bit or sparse attention")
        if any(
            isinstance(block, CoreBlock) and block.has_foreign_text_layer()
            for block in self.dit.blocks
        ):
            left_out += [name for option, name in TEXT_NODES.items() if option in self.options]
        if left_out and self.first_passes.include(self._run, ("patched", count)):
            _show(
                f"Other nodes patch {count} of {len(self.dit.blocks)} blocks. What they patch "
                f"there runs as in ComfyUI's own model, without {' and '.join(left_out)}.",
                logging.INFO,
            )

    def _at_this_step(self, runner: BlockRunner) -> tuple[AttentionFn, BlockRunner]:
        attend = self.dit.attend
        if isinstance(attend, SparseSchedule):
            return for_this_pass(attend, self.options, runner)
        return attend, runner

    def _staged(self, runner: BlockRunner) -> BlockRunner:
        stages = self.options.get(COMPILED)
        if stages is None:
            return with_stages(runner, self.dit.stages, has_patched_parts)
        return stages.around(runner)

    def _with_weights(self, velocity: Velocity, runner: BlockRunner) -> Tensor:
        return velocity(runner) if self.engine is None else self.engine(velocity, runner)

    def _guarded(self, attend: AttentionFn, predict: Callable[[], Tensor]) -> Tensor:
        """Returns predict(), with exact attention if the given one breaks a first pass of a run."""
        if isinstance(attend, Guarded):
            kind = tuple(self.options.get("cond_or_uncond", ()))
            if self.first_passes.include(self._run, kind):
                return attend.check(predict, partial(_show, level=logging.WARNING))
        return predict()

    @property
    def _run(self) -> Any:
        """What a run is known by: its list of sigmas, which every sampler makes anew."""
        return self.options.get("sample_sigmas")


def _show(text: str, level: int) -> None:
    runtime.show(runtime.running_node(), text, level=level)
