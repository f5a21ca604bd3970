"""A MODEL whose weights ComfyUI moves and merges, but for LoRAs of quantized weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import torch

from .dense_patches import place_dense, split_dense
from .low_rank import (
    LoraOperands,
    Patches,
    joined,
    operand_bytes,
    path_of,
    quantized_layer,
    same_patches,
    sort_patches,
)
from .saving import SavingPatcher


class LoraPatcher(SavingPatcher):
    """Keeps LoRAs of quantized weights out of what ComfyUI merges, and gives them to the layers.

    `patches` holds all of them, for other nodes and for saving, where all are merged. The operands
    of the layers belong to the model, which clones share: they are those of the clone loaded last.
    """

    @property
    def operands(self) -> LoraOperands:
        """Of the model."""
        return self.model.operands

    @property
    def dit(self) -> Any:
        """The transformer."""
        return self.model.diffusion_model

    def memory_required(self, input_shape: Any) -> Any:
        """Returns what a forward pass takes of the device, operands of LoRAs included."""
        loras, _ = sort_patches(self.dit, self.patches, joined(*self.hook_patches.values()))
        return super().memory_required(input_shape) + operand_bytes(self.dit, loras)

    def partially_load(
        self, device_to: Any, extra_memory: Any = 0, force_patch_weights: bool = False
    ) -> Any:
        """Loads weights, which stay where they are if only operands are others than before."""
        if self.model.current_weight_patches_uuid is not None:
            # ComfyUI compares these to decide whether to begin anew.
            same = same_patches(self.model.merged_patches, self._merged())
            self.model.current_weight_patches_uuid = self.patches_uuid if same else uuid4()
        loaded = super().partially_load(device_to, extra_memory, force_patch_weights)
        self._place(self.current_hooks)
        return loaded

    def load(
        self,
        device_to: Any = None,
        lowvram_model_memory: Any = 0,
        force_patch_weights: bool = False,
        full_load: bool = False,
    ) -> None:
        """Loads weights, with what is no operand merged; forced to patch, to be saved, too."""
        if self.dit.file_guard is not None:
            self.dit.file_guard.check()
        if device_to is not None:
            self.operands.move(self.dit, torch.device(device_to))
        with self._merging(self._merged()):
            super().load(device_to, lowvram_model_memory, force_patch_weights, full_load)
            self._merge_between_layers(device_to)
            self.model.merged_patches = self.patches
        if force_patch_weights:
            self.model.unmerged = self.unmerged_patches(everywhere=True)
        self._place(self.current_hooks)

    def partially_unload(
        self, device_to: Any, memory_to_free: Any = 0, force_patch_weights: bool = False
    ) -> Any:
        """Leaves weights to be brought for each call, with what is no operand merged then."""
        with self._merging(self.model.merged_patches):
            freed = super().partially_unload(device_to, memory_to_free, force_patch_weights)
        self._restore_scales(self.model.scales, self.backup)
        return freed

    def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> None:
        """Gives the model its own weights back, and takes the operands away."""
        super().unpatch_model(device_to, unpatch_weights)
        self._restore_scales(self.model.scales, self.backup)
        if unpatch_weights:
            self.operands.set(self.dit, {})
            self.operands.place(self.dit)
            place_dense(self.dit, {})

    def get_combined_hook_patches(self, hooks: Any) -> Patches:
        """Returns what is to be merged for hooks."""
        return self._in_weights(super().get_combined_hook_patches(hooks))

    def patch_hooks(self, hooks: Any) -> None:
        """Applies hooks, of which LoRAs become operands beside those of the model."""
        super().patch_hooks(hooks)
        for cached in self.cached_hook_patches.values():
            # ComfyUI would copy them into codes as they are.
            for key in [key for key in cached if quantized_layer(self.dit, key)]:
                cached.pop(key)
        self._place(hooks)

    def unpatch_hooks(self, whitelist_keys_set: set[str] | None = None) -> None:
        """Takes hooks back."""
        super().unpatch_hooks(whitelist_keys_set)
        self._restore_scales(self.model.hook_scales, self.hook_backup)
        if not whitelist_keys_set:
            self._place(None)

    def patch_weight_to_device(self, key: str, *args: Any, **kwargs: Any) -> Any:
        """Merges what belongs to a weight, whose scales may grow with it."""
        self._remember_scales(key, self.model.scales, self.backup)
        return super().patch_weight_to_device(key, *args, **kwargs)

    def patch_hook_weight_to_device(self, *args: Any, **kwargs: Any) -> Any:
        """Merges what hooks add to a weight."""
        key = kwargs["key"]
        self._remember_scales(key, self.model.hook_scales, self.hook_backup)
        return super().patch_hook_weight_to_device(*args, **kwargs)

    def unmerged_patches(self, *, everywhere: bool = False) -> Patches:
        """Returns the patches that the weights in place do not have.

        Args:
            everywhere: whether weights that are brought for each call have been patched, too.
        """
        unmerged: dict[str, list[Any]] = {}
        for key, patches in self.patches.items():
            layer = self.dit.get_submodule(path_of(key))
            streamed = hasattr(layer, "comfy_cast_weights") and not getattr(
                layer, "comfy_patched_weights", False
            )
            merged = self.model.merged_patches.get(key, []) if everywhere or not streamed else []
            rest = [patch for patch in patches if not any(patch is one for one in merged)]
            if rest:
                unmerged[key] = rest
        return unmerged

    def _merge_between_layers(self, device_to: Any) -> None:
        """Merges what ComfyUI passes over: weights beside layers, such as modulations.

        A weight with a backup has been merged already.
        """
        for path, module in self.model.named_modules():
            if any(True for _ in module.children()):
                for name, _ in module.named_parameters(path, recurse=False):
                    if name not in self.backup:
                        self.patch_weight_to_device(name, device_to)

    def _remember_scales(self, key: str, scales: dict[str, Any], backup: Any) -> None:
        """Keeps the scales of a weight that is about to be backed up; ComfyUI has the codes."""
        layer = quantized_layer(self.dit, key) if key not in backup else None
        if layer is not None:
            names = ("weight_scale", "weight_scale_2")
            scales[key] = {name: getattr(layer, name) for name in names}

    def _restore_scales(self, scales: dict[str, Any], backup: Any) -> None:
        """Gives scales back to weights that have been restored."""
        for key in [key for key in scales if key not in backup]:
            layer = self.dit.get_submodule(path_of(key))
            for name, scale in scales.pop(key).items():
                setattr(layer, name, None if scale is None else scale.to(layer.weight.device))

    def _merged(self) -> Patches:
        return self._in_weights(self.patches)

    def _in_weights(self, patches: Patches) -> Patches:
        """Returns those patches that ComfyUI merges into weights as they are stored."""
        return split_dense(self.dit, sort_patches(self.dit, patches, {})[1])[0]

    @contextmanager
    def _merging(self, patches: Patches) -> Iterator[None]:
        """Has ComfyUI see these patches only."""
        everything, self.patches = self.patches, patches
        try:
            yield
        finally:
            self.patches = everything

    def _place(self, hooks: Any) -> None:
        """Gives the layers their operands, if the weights in place are of this clone."""
        if self.model.current_weight_patches_uuid != self.patches_uuid:
            return
        active = joined(self.patches, super().get_combined_hook_patches(hooks))
        waiting = joined(*self.hook_patches.values())
        loras, merged = sort_patches(self.dit, active, waiting)
        place_dense(self.dit, split_dense(self.dit, merged)[1])
        if self.operands.set(self.dit, loras):
            self.operands.place(self.dit)
