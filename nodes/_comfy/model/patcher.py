"""What ComfyUI's memory manager sees of the weights engine: an ordinary, partly loaded model."""

import logging
from typing import Any

import torch
from comfy.patcher_extension import CallbacksMP

from ..host import runtime
from .forward_pass import COMPILED
from .low_rank import joined
from .pool import ExpertPool
from .saving import SavingPatcher


class WanPatcher(SavingPatcher):
    """A MODEL whose weights an `ExpertPool` moves.

    Both experts of a pool share its memory. To ComfyUI they are clones of each other, of which one
    at a time is loaded: then neither is asked to make room for the other, and whichever is asked
    gives back what both have.
    """

    @property
    def pool(self) -> ExpertPool:
        """The weights, shared by all clones and by both experts."""
        return self.model.pool

    def model_size(self) -> int:
        """Returns the bytes of all weights of the pool."""
        return self.pool.nbytes

    def loaded_size(self) -> int:
        """Returns the bytes that the pool has on the device."""
        return self.pool.device_bytes

    def is_clone(self, other: Any) -> bool:
        """Whether two MODELs share their memory."""
        return shares_memory(self, other)

    def clone_has_same_weights(self, clone: Any, *args: Any, **kwargs: Any) -> Any:
        """Whether two clones of one expert have the same patches, too."""
        same = self.model is clone.model
        return same and super().clone_has_same_weights(clone, *args, **kwargs)

    def partially_load(
        self, device_to: Any, extra_memory: float = 0, force_patch_weights: bool = False
    ) -> int:
        """Makes the model ready to run, with a plan for what is free now; returns bytes taken."""
        before = self.loaded_size()
        with self.use_ejected(skip_and_inject_on_exit_only=True):
            self.unpatch_model(self.offload_device, unpatch_weights=False)
            self.patch_model(load_weights=False)
            try:
                self.load(device_to, int(extra_memory), force_patch_weights)
            except Exception:
                self.detach()
                raise
        return self.loaded_size() - before

    def load(
        self,
        device_to: Any = None,
        lowvram_model_memory: int = 0,
        force_patch_weights: bool = False,
        full_load: bool = False,
    ) -> None:
        """Plans, and begins to fetch weights. How much, is decided by what is free.

        Raises:
            MemoryLimitError: if the video does not fit.
        """
        if force_patch_weights:
            # To be saved: the weights stay as in the file, so that is where LoRAs are merged.
            self.model.unmerged = self.unmerged_patches()
        with self.use_ejected():
            if device_to is not None:
                self.pool.move(torch.device(device_to))
            self.unpatch_hooks()
            compiled = COMPILED in self.model_options.get("transformer_options", {})
            base = self.model
            self.pool.prepare(
                base.expert, base.sampled_shape, beside_bytes=base.beside_bytes, compiled=compiled
            )
            self.model.device = device_to
            self.model.model_loaded_weight_memory = self.loaded_size()
            self.model.current_weight_patches_uuid = self.patches_uuid
            for callback in self.get_all_callbacks(CallbacksMP.ON_LOAD):
                callback(self, device_to, lowvram_model_memory, force_patch_weights, full_load)
            self._say_of_other_moves()
            self.apply_hooks(self.forced_hooks, force_apply=True)

    def _say_of_other_moves(self) -> None:
        blocks = [block for block in self.model.diffusion_model.blocks if block.was_to_move]
        for block in blocks:
            block.was_to_move = False
        if blocks:
            runtime.show(
                runtime.running_node(),
                f"Another node wants to move {len(blocks)} blocks of this model. They stay: its "
                "loader plans what fits. Remove the node for block swap, or set limits with 'Wan "
                "2.2 VRAM & Block Swap'.",
                level=logging.WARNING,
            )

    def partially_unload(
        self,
        device_to: Any,  # noqa: ARG002 - core's call
        memory_to_free: float = 0,
        force_patch_weights: bool = False,  # noqa: ARG002
    ) -> int:
        """Gives back memory of the device; returns how much."""
        return self.pool.shrink(int(memory_to_free))

    def detach(self, unpatch_all: bool = True) -> Any:
        """Gives back everything, unless another clone takes over."""
        model = super().detach(unpatch_all)
        if unpatch_all:
            self.pool.release()
        return model

    def patch_hooks(self, hooks: Any) -> None:
        """Adds the LoRAs of hooks to those of the model, for weights that arrive from now on."""
        active = joined(self.patches, self.get_combined_hook_patches(hooks))
        waiting = joined(*self.hook_patches.values())
        self.pool.set_patches(self.model.expert, active, waiting)
        self.current_hooks = hooks

    def unpatch_hooks(self, whitelist_keys_set: set[str] | None = None) -> None:  # noqa: ARG002
        """Leaves the LoRAs of the model alone."""
        self.patch_hooks(None)


def shares_memory(one: Any, other: Any) -> bool:
    """Whether the weights of two MODELs are moved by one engine."""
    both = isinstance(one, WanPatcher) and isinstance(other, WanPatcher)
    return both and one.pool is other.pool
